"""What a wave needs to have judged or built, and how that is asked for; the asking is injected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from enginekeeper.compatibility.placing import Effect
from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.nodes import NodeFacts
from enginekeeper.orchestration.waves import WaveGroup, WavePlan
from registry.errors import DiagnosedError
from registry.waves.types import Wave, WaveWork, WorkState

_WORK = frozenset({Effect.REVALIDATE, Effect.REBUILD})

Ask = Callable[[WaveWork], str]
"""Asks for a judgement or a build and returns the run that does it; the same again for the same."""


@dataclass(frozen=True)
class Dispatch:
    """How work is asked for, and whether what was asked for already is asked for again."""

    ask: Ask
    again: bool = False


def needed(wave: Wave, plan: WavePlan, now: datetime) -> tuple[WaveWork, ...]:
    """Returns a wave's work as a plan has it now: what is missing is added, what is not is done.

    Where platforms need different things of an engine on a GPU, the gravest is done.
    """
    groups = {_key(group): group for group in reversed(plan.groups)}  # the gravest come first
    known = {one.key: _as_planned(one, groups.get(one.key), now) for one in wave.work}
    for key, group in groups.items():
        if group.action in _WORK and key not in known:
            known[key] = WaveWork(
                *key, str(group.action), WorkState.WAITING, now, group.engine.variant
            )
    return tuple(known.values())


def asked_for(
    work: Iterable[WaveWork], dispatch: Dispatch, may_run: Callable[[WaveWork], bool], now: datetime
) -> tuple[tuple[WaveWork, ...], DiagnosedError | None]:
    """Asks for what waits and can be done now; whoever asks twice gets the same run.

    Returns the work with what was asked for, and the first fault: what cannot be asked for keeps
    nothing else from being asked for, unless nobody answers.
    """
    wanted = {WorkState.WAITING} | ({WorkState.DISPATCHED} if dispatch.again else set())
    found: list[WaveWork] = []
    faults: list[DiagnosedError] = []
    for one in work:
        after, silent = one, bool(faults) and isinstance(faults[-1], UnavailableError)
        if one.state in wanted and not silent and may_run(one):
            try:
                after = _asked(one, dispatch.ask, now)
            except DiagnosedError as error:
                faults.append(error)
        found.append(after)
    return tuple(found), next(iter(faults), None)


def places_ready(wave: Wave, nodes: Iterable[NodeFacts]) -> Callable[[WaveWork], bool]:
    """Returns whether a piece of work has a place: a judgement needs its GPU under the driver."""
    ready = {
        (kind.product, kind.mig_profile or "")
        for node in nodes
        if node.driver == wave.driver
        for kind in node.shape.kinds
    }
    return lambda one: one.action == Effect.REBUILD or (one.product, one.mig_profile) in ready


def _key(group: WaveGroup) -> tuple[str, str, str]:
    return group.engine.digest, group.kind.product, group.kind.mig_profile or ""


def _as_planned(one: WaveWork, group: WaveGroup | None, now: datetime) -> WaveWork:
    if group is None or group.action not in _WORK:
        state, action = WorkState.DONE, one.action
    else:
        state, action = one.state, str(group.action)
        if one.state is WorkState.DONE or one.action != action:
            state = WorkState.WAITING  # what was proven or asked for does not do any more
    if (state, action) == (one.state, one.action):
        return one
    run = None if state is WorkState.WAITING else one.run
    return replace(one, state=state, action=action, run=run, changed_at=now)


def _asked(one: WaveWork, ask: Ask, now: datetime) -> WaveWork:
    nth = replace(one, attempt=one.attempt + 1)
    return replace(nth, state=WorkState.DISPATCHED, run=ask(nth), changed_at=now)


def by_hand(one: WaveWork, specs: Iterable[str]) -> str:
    """Returns the command that does a piece of work on a node with its GPU and driver."""
    named = " ".join(f"--spec {spec}" for spec in specs)
    if one.action == Effect.REBUILD:
        return f"enginekeeper build SPEC --only {one.variant}"
    return f"enginekeeper rebuild --engine {one.engine} {named}".rstrip()
