"""Where a wave is, as rows and lines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginekeeper.orchestration.waves import WavePlan
    from registry.waves.types import Wave, WaveNode

NODE_COLUMNS = ("node", "role", "stage", "since", "reasons")
_NAMED = 5
"""How many nodes are named together; --json has all."""
WAVE_COLUMNS = ("wave", "driver", "phase", "nodes", "announced", "time_to_safe")


def wave_document(wave: Wave, now: datetime) -> dict[str, Any]:
    """Returns a wave as JSON values."""
    from enginekeeper.orchestration.rollout.work import by_hand

    waiting = wave.safe_at is None and not wave.ended
    return {
        "wave": wave.name,
        "origin": str(wave.origin),
        "driver": wave.driver,
        "cuda_driver": wave.cuda_driver,
        "cuda_runtime": wave.cuda_runtime,
        "phase": str(wave.phase),
        "reason": wave.reason,
        "simulated": wave.simulated,
        "version": wave.version,
        "announced_at": wave.announced_at.isoformat(),
        "safe_at": _time(wave.safe_at),
        "ended_at": _time(wave.ended_at),
        "time_to_safe_seconds": _seconds(wave),
        "waiting_seconds": int((now - wave.announced_at).total_seconds()) if waiting else None,
        "stages": wave.stage_counts(),
        "nodes": [one.as_dict() for one in wave.nodes],
        "work": [{**one.as_dict(), "by_hand": by_hand(one, wave.specs)} for one in wave.work],
    }


def wave_row(wave: Wave, count: int) -> dict[str, Any]:
    """Returns a wave as one row."""
    seconds = _seconds(wave)
    return {
        "wave": wave.name,
        "driver": wave.driver,
        "phase": str(wave.phase),
        "nodes": count,
        "announced": wave.announced_at.isoformat(timespec="seconds"),
        "time_to_safe": None if seconds is None else spoken(seconds),
    }


def node_row(node: WaveNode) -> dict[str, Any]:
    """Returns a node as one row."""
    return {
        "node": node.name,
        "role": str(node.role),
        "stage": str(node.stage),
        "since": node.since.isoformat(timespec="seconds"),
        "reasons": "; ".join(node.reasons),
    }


def wave_lines(wave: Wave, now: datetime) -> Iterator[str]:
    """Yields what a person has to know besides the table of nodes."""
    from enginekeeper.orchestration.rollout.work import by_hand

    if wave.simulated:
        yield "SIMULATED: these nodes are no real ones"
    counts = ", ".join(f"{count} {stage}" for stage, count in wave.stage_counts().items())
    yield f"wave {wave.name}: driver {wave.driver}, {wave.phase}; {counts}"
    if wave.reason is not None:
        yield f"  because: {wave.reason}"
    seconds = _seconds(wave)
    if seconds is not None:
        yield f"time to safe: {spoken(seconds)}, from announced to every node with proven engines"
    elif wave.ended:
        yield "it ended before every node had proven engines"
    else:
        waited = spoken(int((now - wave.announced_at).total_seconds()))
        yield f"not safe yet, after {waited}: engines have to be judged or built first"
    for one in wave.work:
        if one.state != "done":
            run = "" if one.run is None else f", run {one.run}"
            yield f"{one.action} {one.variant} on {one.product}: {one.state}{run}"
            if one.run is None:
                yield f"  there: {by_hand(one, wave.specs)}"


def some(names: tuple[str, ...]) -> str:
    """Returns the first of some names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def left_out_said(plan: WavePlan) -> str:
    """Says which nodes a plan is not about, though they were picked."""
    names = some(plan.left_out)
    return f"simulated, among real nodes, and left out: {names} (plan them apart: --nodes)"


def spoken(seconds: int) -> str:
    """Returns a duration as a person says it."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _seconds(wave: Wave) -> int | None:
    if wave.safe_at is None:
        return None
    return int((wave.safe_at - wave.announced_at).total_seconds())


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
