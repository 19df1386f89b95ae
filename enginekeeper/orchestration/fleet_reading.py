"""The nodes that a wave is about: those of inventories, or those that the catalogue enrolled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from enginekeeper.errors import MissingError
from enginekeeper.fleet.health import SILENT_AFTER
from enginekeeper.fleet.inventories import read_inventories
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.nodes import NodeFacts, NodeShape, facts_of
from enginekeeper.fleet.placements import INTACT
from enginekeeper.fleet.profiles import Profile
from enginekeeper.orchestration.wave_planning import plan_nodes, select_nodes
from enginekeeper.orchestration.waves import DriverChange, WavePlan
from enginekeeper.uncollected import uncollected
from registry.queries import View
from registry.service import Registry

_UNHEARD = f"not heard for more than {SILENT_AFTER.days * 24} hours"
_OLD = f"its newest inventory is more than {SILENT_AFTER.days * 24} hours old"
_AHEAD = f"its newest inventory is of a time more than {SILENT_AFTER.days * 24} hours ahead"
_UNREPORTED = "enrolled, and it has not reported yet"


def _enrolled(view: View, now: datetime) -> list[NodeFacts]:
    """Returns the enrolled nodes, by name; raises MissingError without any.

    What is not known of a node is a problem of it.
    """
    found = list(_nodes(view, now))
    if not found:
        raise MissingError(
            "no node is enrolled",
            where="catalogue",
            remedy="enginekeeper node enroll; or name inventories: --inventory",
        )
    return found


def read_nodes(
    registry: Registry, places: Sequence[Path], *, now: datetime | None = None
) -> list[NodeFacts]:
    """Returns the nodes that inventories tell of; without any, the enrolled ones, as of a time.

    That a node said nothing for a day is a problem of it, whoever wrote its words down.
    """
    if places:
        return [_aged(one, now or registry.clock()) for one in read_inventories(places)]
    with registry.catalogue.read() as view:
        return _enrolled(view, now or registry.clock())


def _aged(inventory: Inventory, now: datetime) -> NodeFacts:
    """Returns what a document says of a node, and whether it says so too long ago, or too early.

    One of a time to come would stand before every newer one for as long.
    """
    node, taken = facts_of(inventory), datetime.fromisoformat(inventory.taken_at)
    if abs(now - taken) <= SILENT_AFTER:
        return node
    return replace(node, problems=(*node.problems, _OLD if taken < now else _AHEAD))


@uncollected()
def plan_of(
    registry: Registry, places: Sequence[Path], selectors: Sequence[str], change: DriverChange
) -> WavePlan:
    """Plans a change for the nodes that selectors pick of inventories, or of the enrolled ones.

    Raises as `plan_nodes` and `select_nodes` do.
    """
    return plan_nodes(registry, select_nodes(read_nodes(registry, places), selectors), change)


def _nodes(view: View, now: datetime) -> Iterator[NodeFacts]:
    """Yields every node; those of one profile share its shape, those alike their engines too."""
    fleet = view.fleet
    profiles = {row: Profile.of_document(document) for row, document in fleet.profiles().items()}
    shapes = {row: one.shape for row, one in profiles.items()}
    engines = {row: _engines(document) for row, document in fleet.engine_sets().items()}
    since = now - SILENT_AFTER
    alike: dict[tuple[int, int, bool], NodeFacts] = {}
    for name, at, having, heard_at in fleet.members():
        is_unheard = heard_at is None or heard_at < since
        like = alike.get((at, having, is_unheard))
        if like is None:
            profile, (digests, running, wrong) = profiles[at], engines[having]
            like = alike[at, having, is_unheard] = NodeFacts(
                name=name,
                driver=None if profile.driver is None else profile.driver.version,
                shape=shapes[at],
                engines=digests,
                problems=(*profile.problems, *wrong, *([_UNHEARD] if is_unheard else [])),
                simulated=profile.simulated,
                labels=profile.labels,
                running=running if profile.runs_told else None,
                cuda_driver=None if profile.driver is None else profile.driver.cuda,
            )
        yield like.named(name, heard_at)
    for name, simulated in fleet.silent():
        yield NodeFacts(name, None, NodeShape((), "", ""), (), (_UNREPORTED,), simulated)


def _engines(
    document: Sequence[Sequence[Any]],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Returns the engines of a set, those that run, and what is wrong with their bytes."""
    digests = tuple(sorted({str(engine) for engine, _, _ in document}))
    running = tuple(sorted({str(engine) for engine, _, runs in document if runs is not None}))
    wrong = tuple(
        f"engine {engine.partition(':')[2][:12]}: {state}"
        for engine, state, _ in document
        if state not in (None, INTACT)
    )
    return digests, running, wrong
