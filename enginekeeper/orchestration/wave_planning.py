"""Plans a driver wave from nodes and the registry: what is known, verified, and asked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from enginekeeper.compatibility.decision import Judgement
from enginekeeper.errors import InputError
from enginekeeper.fleet.nodes import NodeFacts
from enginekeeper.orchestration.attested import Attested, one_line
from enginekeeper.orchestration.waves import DriverChange, FleetEngine, WavePlan, plan_wave
from enginekeeper.specs.selectors import pick_nodes
from registry.attestations import Statement
from registry.digests import Digest
from registry.errors import WithdrawnError
from registry.freshness import Freshness
from registry.service import Registry
from registry.standing import StandingChange, held_by
from registry.trust import Trust
from registry.types import Engine
from registry.verification import verify_engine


def plan_nodes(registry: Registry, nodes: Sequence[NodeFacts], change: DriverChange) -> WavePlan:
    """Plans a change for nodes: for the real ones, where there are any (`of_one_kind`).

    Raises IntegrityError where an engine is recorded otherwise than it was signed. Somebody's key
    that is revoked holds nodes, no more.
    """
    nodes, left_out = of_one_kind(nodes)
    engines = engines_on(registry, nodes, [change.driver.version])
    plan = plan_wave(nodes, engines, change, scope=registry.driver_scope)
    return replace(plan, left_out=left_out)


def of_one_kind(nodes: Sequence[NodeFacts]) -> tuple[list[NodeFacts], tuple[str, ...]]:
    """Returns the nodes that are planned together, and the names of those that are left out.

    A simulated node has no word in the plan of real ones: without any, they are planned alone.
    """
    real = [one for one in nodes if not one.simulated]
    if not real:
        return list(nodes), ()
    return real, tuple(sorted(one.name for one in nodes if one.simulated))


def engines_on(
    registry: Registry, nodes: Sequence[NodeFacts], drivers: Collection[str] | None = None
) -> dict[str, FleetEngine]:
    """Returns what the catalogue knows of the engines on nodes, all simulated or all real.

    Drivers are those that will be asked about, if that is known (`attested`).
    """
    simulated = {node.simulated for node in nodes}
    if len(simulated) > 1:
        raise InputError(
            "simulated nodes are among real ones",
            actual=", ".join(node.name for node in nodes if node.simulated)[:200],
            expected="one kind",
            remedy="plan them apart: --nodes takes their names",
        )
    # most nodes have what others have: a tenth of a second is saved for a hundred thousand
    digests = sorted({digest for engines in {node.engines for node in nodes} for digest in engines})
    return known_engines(registry, digests, simulated_nodes=True in simulated, drivers=drivers)


def select_nodes(nodes: Sequence[NodeFacts], selectors: Sequence[str]) -> list[NodeFacts]:
    """Returns the nodes that a selector picks by name, or as LABEL=GLOB; all without any."""
    return pick_nodes(nodes, selectors, lambda one: (one.name, one.labels))


def known_engines(
    registry: Registry,
    digests: Iterable[str],
    *,
    simulated_nodes: bool,
    drivers: Collection[str] | None = None,
) -> dict[str, FleetEngine]:
    """Returns what the catalogue knows of engines, verified; those it does not know are absent.

    The signature of a verdict is checked when its fault is asked for. What the gate would refuse
    everywhere is `withdrawn`, with the reason; waivers are not counted.
    """
    freshness = registry.freshness()
    trust = registry.trust if freshness is None else freshness.trusting(registry.trust)
    with registry.catalogue.read() as view:
        found = view.known_engines(list(map(Digest.parse, digests)))
        held = [digest for digest in view.held_engines() if digest in found]
        asked = _Asked(trust, freshness, view.standings(held), simulated_nodes)
        said = Attested(registry, trust, found, drivers).judgements(view)
    return {str(digest): _engine(asked, engine, said[digest]) for digest, engine in found.items()}


@dataclass(frozen=True)
class _Asked:
    """What engines are held against: what the gate goes by."""

    trust: Trust
    freshness: Freshness | None
    standings: Mapping[Digest, Sequence[StandingChange]]
    """Of those that are held."""
    simulated_nodes: bool

    def withdrawn(self, engine: Engine) -> str | None:
        """Says why the gate is closed on an engine wherever it is, whoever signed it."""
        change = held_by(self.standings.get(engine.digest, ()))
        if change is not None:
            return str(change)
        if engine.simulated and not self.simulated_nodes:
            return "made by a double, and the node is real"
        if self.freshness is None:
            return None
        if self.freshness.revokes(engine.digest):
            return "revoked, as the registry's signed snapshot says"
        fault = self.freshness.fault
        return None if fault is None else f"vouched for by no fresh snapshot: {one_line(fault)}"


def _engine(asked: _Asked, engine: Engine, judgements: tuple[Judgement, ...]) -> FleetEngine:
    said, seconds = asked.withdrawn(engine), None
    try:
        seconds = build_seconds(verify_engine(engine, asked.trust))
    except WithdrawnError as error:
        said = said or f"signed by a builder that is not trusted any more: {one_line(str(error))}"
    ranks = [engine.key.hard.get(name, 1) for name in ("tensor_parallel", "pipeline_parallel")]
    return FleetEngine(
        digest=str(engine.digest),
        key=engine.key,
        variant=engine.variant,
        size=engine.size,
        judgements=judgements,
        build_gpu_seconds=None if seconds is None else seconds * ranks[0] * ranks[1],
        withdrawn=said,
    )


def build_seconds(statement: Statement) -> float | None:
    """Returns how long a build took by what its builder signed; None where that says nothing."""
    metadata: Any = statement.predicate.get("runDetails", {}).get("metadata", {})
    try:
        started, finished = (
            datetime.fromisoformat(metadata[name]) for name in ("startedOn", "finishedOn")
        )
    except (KeyError, TypeError, ValueError):
        return None
    seconds = (finished - started).total_seconds()
    return seconds if seconds > 0 else None
