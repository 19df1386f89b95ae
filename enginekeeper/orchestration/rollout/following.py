"""Where one node of a wave is, by what is seen of it: followed until nothing more follows. Pure.

Rules:

- what it goes back to is the driver that it was seen with last before it was released;
- what is released and loses its verdicts before it has the driver is held again; what is released
  and breaks, under either driver, failed;
- what is not seen, or was not heard lately, is not known; silent for longer than the patience, it
  failed if it had the driver;
- what had the driver while the wave goes on and has another one now was put back by somebody, or
  came up with it: it failed, and is not released again before somebody resumes the wave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from enginekeeper.fleet.health import SILENT_AFTER, STALE_AFTER
from registry.waves.types import Origin, Phase, Role, Stage, Wave, WaveNode

GOING_ON = frozenset({Phase.QUALIFYING, Phase.CANARY, Phase.ROLLING})
HAS_IT = frozenset({Stage.UPGRADED, Stage.DONE, Stage.FAILED})
GONE = "left the fleet"
HAS_OTHER = "has driver"
HELD_ANYWAY = "got the driver while it was held"


@dataclass(frozen=True)
class Sight:
    """What is seen of one node now."""

    driver: str | None
    """None where it does not answer."""
    blockers: tuple[str, ...] = ()
    """Why engines on it may not run under the new driver."""
    problems: tuple[str, ...] = ()
    """What is wrong with the node itself."""
    running: tuple[str, ...] | None = None
    """Engines that serve on it; None: nobody says."""
    back: tuple[str, ...] = ()
    """Why engines on it may not run under the driver it had; asked on the way back."""
    silent_for: timedelta | None = timedelta(0)
    """How long ago it spoke: all of this is as of then. None: it never did."""
    is_gone: bool = False
    """It left the fleet."""


def has_it(sight: Sight | None, wave: Wave) -> bool:
    """Says whether a node is seen with the driver of a wave."""
    return sight is not None and sight.driver == wave.driver


def observed(node: WaveNode, sight: Sight | None, wave: Wave, now: datetime) -> WaveNode:
    """Follows what is seen of a node until nothing more follows from it; releases nothing."""
    if is_gone(sight):
        return node if wave.ended else moved(node, Stage.REVERTED, now, (GONE,))
    for _ in Stage:
        after = _next(node, sight, wave, now)
        if after == node:
            break
        node = after
    if wave.phase is Phase.ROLLING_BACK and node.stage in HAS_IT and sight and sight.back:
        return replace(node, reasons=sight.back)
    return node


def _next(node: WaveNode, sight: Sight | None, wave: Wave, now: datetime) -> WaveNode:
    late = now - node.since > patience(wave)
    match node.stage:
        case Stage.HELD:
            return _held_node(node, sight, wave, now)
        case Stage.RELEASED:
            return _released_node(node, sight, wave, now, late=late)
        case Stage.UPGRADED | Stage.DONE | Stage.FAILED:
            return _upgraded_node(node, sight, wave, now, late=late)
        case Stage.REVERTING | Stage.REVERTED:
            return _reverting_node(node, sight, wave, now, late=late)


def patience(wave: Wave) -> timedelta:
    """Returns how long a node may take, or be silent."""
    return timedelta(seconds=wave.terms.patience_seconds)


def why_unseen(sight: Sight | None, wave: Wave) -> str | None:
    """Says why nobody knows how a node is now; None where it was heard lately."""
    if sight is None:
        return "is not seen any more"
    if sight.silent_for is None:
        return "was never heard"
    seconds = wave.terms.stale_after_seconds
    if seconds is not None:
        limit = timedelta(seconds=seconds)
    else:  # documents come when somebody takes them, heartbeats by themselves
        limit = SILENT_AFTER if wave.places else STALE_AFTER
    if sight.silent_for <= limit:
        return None
    return f"not heard for more than {limit // timedelta(minutes=1)} minutes"


def _reverting_node(
    node: WaveNode, sight: Sight | None, wave: Wave, now: datetime, *, late: bool
) -> WaveNode:
    if node.stage is Stage.REVERTED:
        return node if sight is None else _reverted_node(node, sight, wave, now)
    if sight is not None and sight.driver == node.previous_driver:
        return moved(node, Stage.REVERTED, now, ())
    if sight is not None and sight.driver == wave.driver and sight.back:
        return moved(node, Stage.UPGRADED, now, sight.back)
    if not late:
        return node
    unseen = why_unseen(sight, wave)
    said = f"no driver {node.previous_driver} after {wave.terms.patience_seconds} s"
    return replace(node, reasons=(said,) if unseen is None else (said, unseen))


def _reverted_node(node: WaveNode, sight: Sight, wave: Wave, now: datetime) -> WaveNode:
    if wave.origin is Origin.FOUND:
        if has_it(sight, wave):
            return moved(node, Stage.UPGRADED, now, sight.blockers)
        return node
    if GONE in node.reasons and not wave.ended:  # it was enrolled again
        return moved(node, Stage.HELD, now, ())
    return node


def _held_node(node: WaveNode, sight: Sight | None, wave: Wave, now: datetime) -> WaveNode:
    if sight is not None and sight.driver == wave.driver:
        return moved(node, Stage.UPGRADED, now, (HELD_ANYWAY, *sight.blockers))
    if wave.phase not in GOING_ON:
        return node
    unseen = why_unseen(sight, wave)
    reasons = () if sight is None else (*sight.problems, *sight.blockers)
    if sight is not None and sight.driver is not None:  # what it goes back to
        node = replace(node, previous_driver=sight.driver)
    return moved(node, Stage.HELD, now, reasons if unseen is None else (unseen, *reasons))


def _released_node(
    node: WaveNode, sight: Sight | None, wave: Wave, now: datetime, *, late: bool
) -> WaveNode:
    if sight is not None and sight.driver == wave.driver:
        return moved(node, Stage.UPGRADED, now, sight.blockers)
    if late:
        unseen = why_unseen(sight, wave)
        said = f"no driver {wave.driver} after {wave.terms.patience_seconds} s"
        return moved(node, Stage.FAILED, now, (said,) if unseen is None else (said, unseen))
    if sight is None:
        return node
    # without a driver it may be on its way, and silence is waited for
    if sight.problems and sight.driver is not None and why_unseen(sight, wave) is None:
        return moved(node, Stage.FAILED, now, sight.problems)
    if (against := why_not(node, sight)) is not None:
        return moved(node, Stage.HELD, now, against)
    return node


def _upgraded_node(
    node: WaveNode, sight: Sight | None, wave: Wave, now: datetime, *, late: bool
) -> WaveNode:
    """Looks at a node that had the driver, or failed on the way."""
    unseen = why_unseen(sight, wave)
    has_other = sight is not None and sight.driver not in (None, wave.driver)
    left = has_other and wave.origin is Origin.FOUND
    if node.stage is Stage.FAILED and not left and (unseen or not has_it(sight, wave)):
        return node
    if sight is None or sight.driver is None or (sight.driver == wave.driver and unseen):
        lost = sight is not None and (sight.silent_for or timedelta(0)) > patience(wave)
        return _silent_node(node, unseen or "its driver is silent", now, late=late, lost=lost)
    if sight.driver != wave.driver:
        return _left_node(node, sight.driver, wave, now)
    if sight.problems:
        return moved(node, Stage.FAILED, now, sight.problems)
    if sight.blockers:
        return moved(node, Stage.UPGRADED, now, (*_flag(node), *sight.blockers))
    return moved(node, Stage.DONE, now, ())


def _left_node(node: WaveNode, driver: str, wave: Wave, now: datetime) -> WaveNode:
    """Looks at a node that had the driver and has another one now."""
    said = f"{HAS_OTHER} {driver} now"
    if wave.origin is Origin.FOUND:
        return moved(node, Stage.REVERTED, now, (said,))
    if wave.phase not in GOING_ON or _flag(node):  # as somebody wants it, or put right
        return moved(node, Stage.HELD, now, (said,))
    return moved(node, Stage.FAILED, now, (f"had driver {wave.driver}, and {said}",))


def _silent_node(node: WaveNode, why: str, now: datetime, *, late: bool, lost: bool) -> WaveNode:
    """Waits with patience for a node that had the driver and does not say how it is."""
    reasons = (*_flag(node), why)
    if lost:
        return moved(node, Stage.FAILED, now, reasons)
    if node.stage is Stage.DONE or why not in node.reasons:  # it may be on its way up
        return replace(node, stage=Stage.UPGRADED, since=now, reasons=reasons)
    return moved(node, Stage.FAILED, now, reasons) if late else node


def _flag(node: WaveNode) -> tuple[str, ...]:
    return (HELD_ANYWAY,) if HELD_ANYWAY in node.reasons else ()


def moved(node: WaveNode, stage: Stage, now: datetime, reasons: Sequence[str]) -> WaveNode:
    """Returns a node in a stage, since now if it was in another."""
    since = node.since if node.stage is stage else now
    return replace(node, stage=stage, since=since, reasons=tuple(dict.fromkeys(reasons)))


def why_not(node: WaveNode, sight: Sight) -> tuple[str, ...] | None:
    """Says why a node may not get the driver now; None where it may."""
    if node.role is Role.QUALIFICATION:
        if sight.running:
            return tuple(f"serves {one}: drain it" for one in sight.running)
        if sight.running is None and not node.named:
            return ("nobody says that it serves nothing: --qualify NAME",)
        return None
    return sight.blockers or None


def is_gone(sight: Sight | None) -> bool:
    """Says whether a node left the fleet."""
    return sight is not None and sight.is_gone
