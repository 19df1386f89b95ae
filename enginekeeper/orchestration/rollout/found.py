"""What a driver that is there already asks for: the plan of a change that nobody announced.

Rules:

- a node is held against the driver that it has; what runs goes on, and is flagged;
- nodes whose engines are all qualified are left alone, and so are those in a wave about this
  driver that goes on: that sees them by itself. A wave about another driver does not;
- the CUDA of a driver is that of its branch; of a branch that is not in the table it is what the
  nodes themselves say of it;
- there is one such wave for a driver while it goes on, and asking again changes nothing;
- its nodes have the driver: nothing is released and nothing held, but what is not qualified is
  known, has its work, and its time to safe is counted.

Example:
    reaction = react(registry, [facts_of(inventory)], now=datetime.now(UTC))
    follow(registry, now=datetime.now(UTC))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from enginekeeper.compatibility.cuda import cuda_of_driver
from enginekeeper.errors import InputError, MissingError
from enginekeeper.fleet.nodes import NodeFacts
from enginekeeper.orchestration.fleet_reading import read_nodes
from enginekeeper.orchestration.rollout.service import go_on
from enginekeeper.orchestration.rollout.sights import blockers_in
from enginekeeper.orchestration.rollout.work import needed
from enginekeeper.orchestration.wave_planning import engines_on
from enginekeeper.orchestration.waves import DriverChange, WavePlan, plan_wave
from enginekeeper.uncollected import uncollected
from registry.service import Registry
from registry.waves.types import Origin, Phase, Role, Stage, Terms, Wave, WaveNode


@dataclass(frozen=True)
class Reaction:
    """What was found, and what was recorded of it."""

    unqualified: Mapping[str, tuple[str, ...]]
    """Node to why engines on it may not run under the driver it has; what runs goes on."""
    waves: tuple[str, ...]
    """The waves that these nodes were put into."""
    unknown: Mapping[str, str]
    """Node to why nobody can tell: its driver's CUDA is not in the table, or it is no version."""


@uncollected()
def react(
    registry: Registry,
    nodes: Sequence[NodeFacts],
    *,
    now: datetime,
    places: Sequence[str] = (),
    cuda_driver: str | None = None,
) -> Reaction:
    """Holds nodes against the driver they have, and records a wave for what is not qualified.

    `places` are the inventories that the wave reads later; none: the registry's own fleet.
    `cuda_driver` is the CUDA of drivers whose branch is not in the table, and of no other; what
    the nodes say if left out.
    """
    alike: dict[tuple[str, bool, str | None], list[NodeFacts]] = {}
    unknown: dict[str, str] = {}
    for node in nodes:
        if node.driver is None:
            continue
        try:
            api = cuda_of_driver(node.driver) or cuda_driver or node.cuda_driver
        except InputError as error:
            unknown[node.name] = f"driver {node.driver}: {error.what}"
            continue
        alike.setdefault((node.driver, node.simulated, api), []).append(node)
    # once for all drivers: the signatures of an engine are the same under each
    engines = {
        kind: engines_on(
            registry,
            [node for node in nodes if node.simulated is kind],
            {driver for driver, simulated, _ in alike if simulated is kind},
        )
        for kind in {kind for _, kind, _ in alike}
    }
    unqualified: dict[str, tuple[str, ...]] = {}
    waves: list[str] = []
    for (driver, kind, api), some in sorted(alike.items(), key=lambda one: str(one[0])):
        try:
            change = DriverChange.to(driver, on=now.date(), cuda_driver=api)
        except InputError as error:
            unknown.update((one.name, f"driver {driver}: {error.what}") for one in some)
            continue
        plan = plan_wave(some, engines[kind], change, scope=registry.driver_scope)
        blocked = {name: why for name, why in blockers_in(some, plan).items() if why}
        if not blocked:
            continue
        unqualified |= blocked
        wave = _recorded(registry, plan, blocked, tuple(places), now)
        waves += [] if wave is None else [wave]
    return Reaction(unqualified, tuple(waves), unknown)


def _recorded(
    registry: Registry,
    plan: WavePlan,
    blocked: Mapping[str, tuple[str, ...]],
    places: tuple[str, ...],
    now: datetime,
) -> str | None:
    """Puts nodes into the wave of the driver that was found, and returns its name."""
    driver = plan.change.driver
    with registry.catalogue.edit(actor=registry.actor) as changes:
        there = changes.waves.about(driver.version, sorted(blocked))
        nodes = tuple(
            WaveNode(name, Role.BATCH, Stage.UPGRADED, now, None, reasons=reasons)
            for name, reasons in sorted(blocked.items())
            if name not in there
        )
        if not nodes:
            return None
        found = [
            one
            for one in changes.waves.open(Origin.FOUND, driver.version)
            if (one.cuda_driver, one.places, one.simulated) == (driver.cuda, places, plan.simulated)
        ]
        if found:
            merged = tuple(sorted((*found[0].nodes, *nodes), key=lambda one: one.name))
            after = replace(found[0], nodes=merged, safe_at=None)
            changes.waves.change(found[0], replace(after, work=needed(after, plan, now)))
            return found[0].name
        name = f"found-{driver.version}-{now:%Y%m%dT%H%M%S%fZ}"
        if changes.waves.known(name):  # simulated nodes beside real ones, or two CUDAs
            name = next(new for at in count(2) if not changes.waves.known(new := f"{name}-{at}"))
        wave = Wave(
            name=name, origin=Origin.FOUND,
            driver=driver.version, cuda_driver=driver.cuda, cuda_runtime=None,
            phase=Phase.ROLLING, terms=Terms(canary=0), announced_at=now, actor=registry.actor,
            nodes=nodes, places=places, simulated=plan.simulated,
        )  # fmt: skip
        changes.waves.begin(replace(wave, work=needed(wave, plan, now)))
        return wave.name


def follow(registry: Registry, *, now: datetime, places: Sequence[str] = ()) -> tuple[Wave, ...]:
    """Lets the waves that were found of these places go on, and returns those that changed.

    A node that has another driver since leaves its wave; one whose nodes are all proven ends.
    """
    with registry.catalogue.read() as view:
        found = [one for one in view.waves.open(Origin.FOUND) if one.places == tuple(places)]
    if not found:
        return ()
    try:
        fleet = read_nodes(registry, tuple(map(Path, places)), now=now)
    except MissingError:
        if places:
            raise
        fleet = []  # every node was retired
    steps = [go_on(registry, one.name, now=now, fleet=fleet) for one in found]
    return tuple(step.after for step in steps if step.after != step.before)
