"""Plans a driver wave from inventories and the registry: what is known, verified, and asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from enginekeeper.compatibility.decision import Judgement
from enginekeeper.errors import InputError, MissingError
from enginekeeper.fleet.inventories import read_inventories
from enginekeeper.fleet.nodes import NodeFacts, facts_of
from enginekeeper.orchestration.waves import DriverChange, FleetEngine, WavePlan, plan_wave
from enginekeeper.specs.selectors import Selector
from registry.attestations import Statement
from registry.digests import Digest
from registry.errors import RecordNotFoundError
from registry.queries import View
from registry.service import Registry
from registry.standing import held_by


def plan_inventories(
    registry: Registry, places: Sequence[Path], selectors: Sequence[str], change: DriverChange
) -> WavePlan:
    """Plans a change for the nodes of inventories that the selectors pick.

    Raises InputError where simulated and real nodes are mixed, IntegrityError where an engine or
    a verdict is recorded otherwise than it was signed.
    """
    nodes = select_nodes([facts_of(one) for one in read_inventories(places)], selectors)
    simulated = {node.simulated for node in nodes}
    if len(simulated) > 1:
        raise InputError(
            "simulated nodes are among real ones",
            actual=", ".join(node.name for node in nodes if node.simulated)[:200],
            expected="one kind",
            remedy="plan them apart: --nodes takes their names",
        )
    digests = sorted({digest for node in nodes for digest in node.engines})
    engines = known_engines(registry, digests, simulated_nodes=True in simulated)
    return plan_wave(nodes, engines, change, scope=registry.driver_scope)


def select_nodes(nodes: Sequence[NodeFacts], selectors: Sequence[str]) -> list[NodeFacts]:
    """Returns the nodes that a selector picks by name, or as LABEL=GLOB; all without any."""
    if not selectors:
        return list(nodes)
    picked: dict[str, NodeFacts] = {}
    for text in selectors:
        label, equals, pattern = text.partition("=")
        selector = Selector(pattern if equals else text)
        found = [
            node for node in nodes if selector(node.labels.get(label, "") if equals else node.name)
        ]
        if not found:
            raise MissingError(
                "the selector picks no node",
                actual=text[:200],
                expected=f"one of {len(nodes)}, such as {', '.join(n.name for n in nodes[:5])}",
                remedy="quote the pattern, so that the shell leaves its * alone",
            )
        picked.update((node.name, node) for node in found)
    return list(picked.values())


def known_engines(
    registry: Registry, digests: Iterable[str], *, simulated_nodes: bool
) -> dict[str, FleetEngine]:
    """Returns what the catalogue knows of engines, verified; those it does not know are absent."""
    found: dict[str, FleetEngine] = {}
    with registry.catalogue.read() as view:
        for digest in digests:
            try:
                engine = _engine(registry, view, Digest.parse(digest), simulated_nodes)
            except RecordNotFoundError:
                continue
            found[digest] = engine
    return found


def _engine(
    registry: Registry, view: View, digest: Digest, simulated_nodes: bool  # noqa: FBT001 - passed on
) -> FleetEngine:  # fmt: skip
    engine = view.engine(digest)
    statement = registry.verify_engine(engine)
    verdicts = view.verdicts(digest)
    for verdict in verdicts:
        registry.verify_verdict(engine, verdict)
    withdrawn = held_by(view.standing(digest))
    said = None if withdrawn is None else str(withdrawn)
    if engine.simulated and not simulated_nodes:
        said = "made by a double, and the node is real"
    ranks = [engine.key.hard.get(name, 1) for name in ("tensor_parallel", "pipeline_parallel")]
    seconds = build_seconds(statement)
    return FleetEngine(
        digest=str(digest),
        key=engine.key,
        variant=engine.variant,
        size=engine.size,
        judgements=tuple(Judgement(one.environment, one.result) for one in verdicts),
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
