"""Starts waves, lets them go on, stops them, turns them back: what is decided is recorded.

Rules:

- the fleet and the catalogue are read, `machine` decides, and the change is written against the
  version that was read: of two that go on at once one is told so;
- nothing is sent to a node: what is released is told by `wave check`, `wave hooks`, the webhook;
- work is asked for before it is recorded, by a name that makes asking twice the same run.

Example:
    wave = start(registry, announcement, now=datetime.now(UTC))
    step = go_on(registry, wave.name, now=datetime.now(UTC))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from enginekeeper.errors import InputError, MissingError
from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.nodes import NodeFacts
from enginekeeper.fleet.traffic import Traffic
from enginekeeper.orchestration.fleet_reading import read_nodes
from enginekeeper.orchestration.rollout import machine
from enginekeeper.orchestration.rollout.budget import allowed
from enginekeeper.orchestration.rollout.following import Sight, observed
from enginekeeper.orchestration.rollout.sights import blockers_in, failures_in, sights_of
from enginekeeper.orchestration.rollout.work import Dispatch, asked_for, needed, places_ready
from enginekeeper.orchestration.wave_planning import (
    engines_on,
    plan_nodes,
    select_nodes,
)
from enginekeeper.orchestration.waves import DriverChange, FleetEngine, WavePlan, plan_wave
from registry.errors import ConflictError, DiagnosedError, GateRefusedError
from registry.names import check_component
from registry.service import Registry
from registry.waves.types import Origin, Phase, Role, Stage, Terms, Wave, WaveNode

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A driver change that somebody wants rolled out."""

    change: DriverChange
    places: tuple[Path, ...]
    selectors: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Selectors of nodes that are left out."""
    qualify: tuple[str, ...] = ()
    """Nodes that serve nothing, by somebody's word."""
    terms: Terms = field(default_factory=Terms)
    name: str | None = None
    webhook: str | None = None
    deployment: str | None = None
    specs: tuple[str, ...] = ()
    traffic: Traffic | None = None
    """How busy the nodes are: the least busy go first; by their names without it."""


@dataclass(frozen=True)
class Going:
    """What is known at one moment of a wave: the plan, and what is seen of its nodes."""

    nodes: tuple[NodeFacts, ...]
    plan: WavePlan
    sights: Mapping[str, Sight]


@dataclass(frozen=True)
class WaveStep:
    """A wave before and after it went on, and the plan that decided."""

    before: Wave | None
    after: Wave
    going: Going
    fault: DiagnosedError | None = None
    """Why something that it needs could not be asked for: to be raised when the rest was told."""


Change = Callable[[Wave, Going], Wave]


def draft(registry: Registry, announcement: Announcement, *, now: datetime) -> WaveStep:
    """Returns the wave that an announcement would start, with its first step; records nothing.

    Raises GateRefusedError where an engine cannot work under the driver at all, ConflictError
    where a node that is to qualify serves, MissingError for one that is not among the nodes.
    """
    picked = members(read_nodes(registry, announcement.places, now=now), announcement)
    plan = plan_nodes(registry, picked, announcement.change)
    nodes = [one for one in picked if one.simulated is plan.simulated]
    allowed(announcement.terms.max_unavailable, len(nodes))
    if plan.refused:
        raise _refused(plan)
    roles = _qualifying(nodes, plan, announcement.qualify)
    wave = _announced(registry, announcement, nodes, roles, now)
    going = Going(tuple(nodes), plan, sights_of(nodes, plan, {}, now=now))
    after = machine.advance(wave, going.sights, failures=failures_in(plan), now=now)
    return WaveStep(None, replace(after, work=needed(after, plan, now)), going)


def start(registry: Registry, announcement: Announcement, *, now: datetime) -> WaveStep:
    """Records the wave of an announcement.

    Raises what `draft` raises, and ConflictError where a node is in a wave that goes on.
    """
    step = draft(registry, announcement, now=now)
    with registry.catalogue.edit(actor=registry.actor) as changes:
        if changes.waves.known(step.after.name):
            raise ConflictError("there is a wave of this name", where=f"wave {step.after.name}")
        changes.waves.begin(step.after)
    return replace(step, after=read_wave(registry, step.after.name))


def read_wave(registry: Registry, name: str) -> Wave:
    """Returns a wave as it is recorded; raises RecordNotFoundError."""
    with registry.catalogue.read() as view:
        return view.waves.wave(name)


def look(
    registry: Registry, wave: Wave, *, now: datetime, fleet: Sequence[NodeFacts] | None = None
) -> Going:
    """Returns what is known of a wave's nodes now.

    A node without a document any more is absent; one that was retired is gone, and one that is of
    the other kind now, simulated or real, is not the node that it was. `fleet` is what the wave's
    places say, if that was read just now.
    """
    names = {one.name for one in wave.nodes}
    if fleet is None:
        fleet = read_nodes(registry, tuple(map(Path, wave.places)), now=now)
    nodes = [one for one in fleet if one.name in names and one.simulated is wave.simulated]
    engines = engines_on(registry, nodes)
    plan = plan_wave(nodes, engines, change_of(wave, now), scope=registry.driver_scope)
    back = _back(registry, wave, nodes, engines, now) if wave.phase is Phase.ROLLING_BACK else {}
    sights = sights_of(nodes, plan, back, now=now)
    if not wave.places:  # which names every node that is enrolled
        gone = Sight(None, silent_for=None, is_gone=True)
        sights |= dict.fromkeys(names - sights.keys(), gone)
    return Going(tuple(nodes), plan, sights)


def standing(registry: Registry, wave: Wave, node: WaveNode, *, now: datetime) -> WaveNode | None:
    """Returns where one node of a wave is by what is seen of it now; None where it is not seen.

    Decided as a step of the wave decides it, but for what a step releases; records nothing.
    """
    alone = replace(wave, nodes=(node,))
    sight = look(registry, alone, now=now).sights.get(node.name)
    return None if sight is None or sight.is_gone else observed(node, sight, alone, now)


def go_on(
    registry: Registry,
    name: str,
    *,
    now: datetime,
    change: Change | None = None,
    dispatch: Dispatch | None = None,
    fleet: Sequence[NodeFacts] | None = None,
) -> WaveStep:
    """Lets a wave go on by one step, after a change that somebody wants, and records it.

    `fleet` is what its places say, if that was read just now.
    """
    before = read_wave(registry, name)
    turned = before
    going = look(registry, before, now=now, fleet=fleet)
    if change is not None:
        turned = change(before, going)
        if turned.phase is Phase.ROLLING_BACK:  # which asks about the driver before, too
            going = look(registry, turned, now=now, fleet=fleet)
    after = machine.advance(turned, going.sights, failures=failures_in(going.plan), now=now)
    after = _recorded(registry, before, replace(after, work=needed(after, going.plan, now)))
    fault = None
    if dispatch is not None and not after.ended:
        # apart, so that a server which does not answer keeps no wave from going on
        work, fault = asked_for(after.work, dispatch, places_ready(after, going.nodes), now)
        after = _recorded(registry, after, replace(after, work=work))
    return WaveStep(before, after, going, fault)


def _recorded(registry: Registry, before: Wave, after: Wave) -> Wave:
    with registry.catalogue.edit(actor=registry.actor) as changes:
        changes.waves.change(before, after)
        return changes.waves.wave(before.name)


def abort(registry: Registry, name: str, reason: str, *, now: datetime) -> WaveStep:
    """Ends a wave: nothing more is released, what has the driver keeps it."""

    def change(wave: Wave, _going: Going) -> Wave:
        _check(wave, not wave.ended, "it has ended", "a wave that goes on")
        return machine.stop(wave, Phase.ABORTED, reason, now)

    return go_on(registry, name, now=now, change=change)


def resume(registry: Registry, name: str, *, now: datetime) -> WaveStep:
    """Lets a stopped wave go on; what still fails stops it again at once."""

    def change(wave: Wave, going: Going) -> Wave:
        _check(wave, wave.phase is Phase.STOPPED, f"it is {wave.phase}", "a stopped wave")
        return machine.resume(wave, going.sights, now)

    return go_on(registry, name, now=now, change=change)


def turn_back(registry: Registry, name: str, reason: str, *, now: datetime) -> WaveStep:
    """Sends the nodes that have the driver back to the one they had, within the budget."""

    def change(wave: Wave, _going: Going) -> Wave:
        back = wave.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        _check(wave, not back, f"it is {wave.phase}", "a wave that went forward")
        return machine.turn_back(wave, reason, now)

    return go_on(registry, name, now=now, change=change)


def members(fleet: Sequence[NodeFacts], announcement: Announcement) -> list[NodeFacts]:
    """Returns the nodes with GPUs that an announcement is about; raises MissingError for none."""
    picked = select_nodes(fleet, announcement.selectors)
    if announcement.skipped:
        out = {one.name for one in select_nodes(fleet, announcement.skipped)}
        picked = [one for one in picked if one.name not in out]
    found = [one for one in picked if one.driver or one.shape.kinds or one.problems]
    if not found:
        raise MissingError("no node with a GPU is left", expected="one at least")
    return found


def change_of(wave: Wave, now: datetime) -> DriverChange:
    """Returns the change that a wave is about, as of a day."""
    return DriverChange.to(
        wave.driver, on=now.date(), cuda=wave.cuda_runtime, cuda_driver=wave.cuda_driver
    )


def _announced(
    registry: Registry,
    announcement: Announcement,
    nodes: Sequence[NodeFacts],
    roles: Mapping[str, Role],
    now: datetime,
) -> Wave:
    driver = announcement.change.driver
    name = announcement.name or f"{driver.version}-{now:%Y%m%dT%H%M%SZ}"
    return Wave(
        name=check_component(name, where="wave"),
        origin=Origin.PLANNED,
        driver=driver.version,
        cuda_driver=driver.cuda,
        cuda_runtime=announcement.change.cuda_runtime,
        phase=Phase.QUALIFYING,
        terms=announcement.terms,
        announced_at=now,
        actor=registry.actor,
        nodes=tuple(
            WaveNode(
                one.name, roles.get(one.name, Role.BATCH), Stage.HELD, now, one.driver,
                named=one.name in announcement.qualify,
            )
            for one in _in_order(nodes, announcement.traffic)
        ),
        places=tuple(str(place.absolute()) for place in announcement.places),
        simulated=any(one.simulated for one in nodes),
        webhook=announcement.webhook,
        deployment=announcement.deployment,
        specs=tuple(str(Path(spec).absolute()) for spec in announcement.specs),
    )  # fmt: skip


def _in_order(nodes: Sequence[NodeFacts], traffic: Traffic | None) -> list[NodeFacts]:
    by_name = {one.name: one for one in nodes}
    names = sorted(by_name) if traffic is None else traffic.order(by_name)
    return [by_name[name] for name in names]


def _qualifying(
    nodes: Sequence[NodeFacts], plan: WavePlan, named: Sequence[str]
) -> dict[str, Role]:
    """Returns the nodes that qualify: those named, and an idle one for each GPU left over."""
    by_name = {one.name: one for one in nodes}
    for name in named:
        if name not in by_name:
            raise MissingError(
                "the node that is to qualify is not among the nodes",
                actual=name,
                expected=f"one of {len(nodes)}, such as {', '.join([*by_name][:_SHOWN])}",
            )
        if by_name[name].running:
            raise ConflictError(
                "a node that is to qualify serves",
                where=f"node {name}",
                actual=", ".join(by_name[name].running or ()),
                expected="a drained node",
                remedy=f"drain {name}, or name another one",
            )
    chosen = dict.fromkeys(named, Role.QUALIFICATION)
    covered = {kind for name in named for kind in by_name[name].shape.kinds}
    for kind in _to_judge(plan):
        if kind not in covered and (idle := _idle(nodes, kind)) is not None:
            chosen[idle.name] = Role.QUALIFICATION
            covered |= set(idle.shape.kinds)
    return chosen


def _to_judge(plan: WavePlan) -> list[GpuKind]:
    """Returns the kinds of GPU that something has to be judged on."""
    return sorted({group.kind for group in plan.groups if group.action != "reuse"})


def uncovered(step: WaveStep) -> list[GpuKind]:
    """Returns the kinds of GPU that something has to be judged on, and that no node qualifies."""
    qualify = {one.name for one in step.after.nodes if one.role is Role.QUALIFICATION}
    covered = {kind for one in step.going.nodes if one.name in qualify for kind in one.shape.kinds}
    return [kind for kind in _to_judge(step.going.plan) if kind not in covered]


def _idle(nodes: Iterable[NodeFacts], kind: GpuKind) -> NodeFacts | None:
    """Returns the node of a kind that says it serves nothing, with the fewest engines on it."""
    idle = [
        one for one in nodes if one.running == () and kind in one.shape.kinds and not one.problems
    ]
    return min(idle, key=lambda one: (len(one.engines), one.name), default=None)


def _back(
    registry: Registry,
    wave: Wave,
    nodes: Sequence[NodeFacts],
    engines: Mapping[str, FleetEngine],
    now: datetime,
) -> dict[str, tuple[str, ...]]:
    """Returns why engines on each node may not run under the driver it had."""
    had: dict[str, list[NodeFacts]] = {}
    previous = {one.name: one.previous_driver for one in wave.nodes}
    for node in nodes:
        if (driver := previous[node.name]) is not None:
            had.setdefault(driver, []).append(node)
    found: dict[str, tuple[str, ...]] = {}
    for driver, some in had.items():
        try:
            change = DriverChange.to(driver, on=now.date())
        except InputError as error:
            found.update((one.name, (f"driver {driver}: {error.what}",)) for one in some)
            continue
        found |= blockers_in(some, plan_wave(some, engines, change, scope=registry.driver_scope))
    return found


def _refused(plan: WavePlan) -> GateRefusedError:
    groups = [group for group in plan.groups if group.action == "refuse"]
    nodes = sorted({name for group in groups for name in group.nodes})
    first = groups[0]
    return GateRefusedError(
        "an engine cannot work under this driver, and no wait helps",
        where=f"nodes {', '.join(nodes[:_SHOWN])}{' …' if len(nodes) > _SHOWN else ''}",
        actual=f"{first.engine.variant}: {first.decision.deciding[0]}",
        expected="nothing that is refused",
        remedy="leave these nodes out: --skip NODE; or take the engines off them first",
    )


def _check(wave: Wave, fine: bool, actual: str, expected: str) -> None:  # noqa: FBT001 - a condition
    if not fine:
        raise ConflictError(
            "the wave cannot do that", where=f"wave {wave.name}", actual=actual, expected=expected
        )
