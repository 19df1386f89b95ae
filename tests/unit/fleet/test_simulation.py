"""Simulated fleets: enrolled as such, as an ordinary fleet is, and heard again when made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.inventories import parse_inventory
from enginekeeper.fleet.simulation import SimulatedPool, inventory_of, simulate
from enginekeeper.fleet.wire import state_of
from registry.fleet.types import WhereFilter
from tests.factories.fleet import NOON, engine_name, join, minutes
from tests.factories.inventories import inventory
from tests.factories.registry import Workbench, make_workbench

POOL = SimulatedPool(
    "p", GpuKind("NVIDIA L4", "8.9"), DriverState("580.95.05", "13.0"),
    DriverState("595.71.05", "13.2"), tuple(map(engine_name, "abc")),
)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return make_workbench(tmp_path)


@pytest.mark.parametrize("number", [0, 5, 7, 8, 9, 99])
def test_a_simulated_document_is_one_that_the_service_reads(number: int) -> None:
    document = inventory_of(POOL, "sim-1", number, NOON)
    found = parse_inventory(json.dumps(document).encode(), "x")
    assert (found.node, found.simulated) == ("sim-1", True)


def test_a_fleet_is_as_an_ordinary_one(bench: Workbench) -> None:
    catalogue = bench.registry.catalogue
    tokens = simulate(catalogue, [POOL], 100, NOON).tokens
    with catalogue.read() as view:
        placed = view.fleet.where(WhereFilter())
        nodes = view.fleet.nodes()
        states = sorted(one.nodes for one in view.fleet.states())
        document = view.fleet.document(nodes[20])
    assert len(tokens) == len(nodes) == 100
    assert len(placed) == 298
    assert states == [1, 1, 2, 5, 91]
    assert all(one.simulated for one in nodes)
    assert document is not None
    assert state_of(json.loads(document)) == nodes[20].state


def test_made_again_they_were_heard_now_and_nothing_else_changes(bench: Workbench) -> None:
    catalogue = bench.registry.catalogue
    simulate(catalogue, [POOL], 10, NOON)
    assert simulate(catalogue, [POOL], 10, minutes(5)).tokens == {}
    with catalogue.read() as view:
        nodes = view.fleet.nodes()
        histories = {len(view.fleet.history(one)) for one in nodes}
    assert {one.seen_at for one in nodes} == {minutes(5)}
    assert histories == {1}


def test_a_real_node_never_gets_a_simulated_report(bench: Workbench) -> None:
    catalogue = bench.registry.catalogue
    join(catalogue, inventory("gpu-000001"))
    with pytest.raises(InputError, match="no simulated one"):
        simulate(catalogue, [POOL], 2, NOON, prefix="gpu")
    with catalogue.read() as view:
        assert [one.name for one in view.fleet.nodes()] == ["gpu-000001"]


def test_retired_nodes_stay_so_and_are_not_counted(bench: Workbench) -> None:
    catalogue = bench.registry.catalogue
    simulate(catalogue, [POOL], 3, NOON)
    with catalogue.edit() as draft:
        draft.fleet.retire("sim-000001", NOON)
    assert simulate(catalogue, [POOL], 3, minutes(5)).reported == 2


@pytest.mark.parametrize("number", [0, 5, 7, 8])
def test_a_simulated_node_is_kept_as_one_that_reported_over_the_wire(
    tmp_path: Path, number: int
) -> None:
    made, spoke = (make_workbench(tmp_path / name).registry.catalogue for name in ("made", "spoke"))
    simulate(made, [POOL], number + 1, NOON)
    name = f"sim-{number:06d}"
    join(spoke, parse_inventory(json.dumps(inventory_of(POOL, name, number, NOON)).encode(), "x"))
    kept = []
    for catalogue in (made, spoke):
        with catalogue.read() as view:
            node = view.fleet.node(name)
            assert node.profile is not None
            assert node.engine_set is not None
            kept.append(
                (
                    node.state, node.labels, node.boot_id, view.fleet.devices(node),
                    view.fleet.engines_on(node), json.loads(view.fleet.document(node) or b""),
                    view.fleet.profiles([node.profile])[node.profile],
                    view.fleet.engine_sets([node.engine_set])[node.engine_set],
                    [one.driver for one in view.fleet.history(node)],
                )
            )  # fmt: skip
    assert kept[0] == kept[1]
