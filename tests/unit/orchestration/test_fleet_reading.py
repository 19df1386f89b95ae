"""The enrolled nodes as waves see them: what serves, and what nobody tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.interface import GpuProcess, LostDevice
from enginekeeper.fleet.inventory import Evidence, RunningEngine
from enginekeeper.fleet.nodes import NodeFacts, facts_of
from enginekeeper.orchestration.fleet_reading import read_nodes
from registry.digests import digest_bytes
from tests.factories.benches import Site
from tests.factories.fleet import join
from tests.factories.inventories import device, inventory, on_disk, write_inventory

ENGINE = str(digest_bytes(b"engine"))
RUNS = RunningEngine(ENGINE, "/engines/m", 7, "2026-11-26T03:00:00+00:00", Evidence.DECLARED)


def read(site: Site, **fields: Any) -> NodeFacts:  # noqa: ANN401 - of an inventory
    found = inventory("gpu-1", [on_disk(ENGINE)], **fields)
    join(site.bench.registry.catalogue, found)
    (node,) = read_nodes(site.bench.registry, ())
    return node


def test_a_node_is_as_it_was_when_it_spoke_last(site: Site) -> None:
    then = datetime.now(UTC) - timedelta(hours=25)
    found = inventory("gpu-1", [on_disk(ENGINE)])
    join(site.bench.registry.catalogue, found, now=then)
    (node,) = read_nodes(site.bench.registry, ())
    assert (node.heard_at, node.problems) == (then, ("not heard for more than 24 hours",))
    assert facts_of(found).heard_at == datetime.fromisoformat(found.taken_at)


def test_an_enrolled_node_says_what_serves_on_it(site: Site) -> None:
    assert read(site).running == ()
    assert read(site, running=(RUNS,)).running == (ENGINE,)


@pytest.mark.parametrize(
    "fields",
    [
        {"devices": (device(processes=(GpuProcess(8, None),)),)},
        {"devices": (device(unread={"processes": "Insufficient Permissions"}),)},
        {"runs_problem": "x.json: damaged"},
    ],
)
def test_nobody_says_that_it_is_idle_where_something_else_computes(
    site: Site, fields: dict[str, Any]
) -> None:
    assert read(site, **fields).running is None


@pytest.mark.parametrize(
    "fields", [{"lost": (LostDevice(1, "GPU is lost"),)}, {"devices": (device(mig=None),)}, {}]
)
def test_the_catalogue_tells_a_wave_what_the_inventory_tells_it(
    site: Site, fields: dict[str, Any]
) -> None:
    there, found = read(site, **fields), facts_of(inventory("gpu-1", [on_disk(ENGINE)], **fields))
    assert (there.shape, there.problems, there.engines) == (
        found.shape, found.problems, found.engines,
    )  # fmt: skip
    assert there.shape.complete is (fields == {})


@pytest.mark.parametrize(
    ("hours", "problems"),
    [
        (-25, ("its newest inventory is more than 24 hours old",)), (-23, ()), (23, ()),
        (25, ("its newest inventory is of a time more than 24 hours ahead",)),
    ],
)  # fmt: skip
def test_an_inventory_in_a_file_ages_as_the_word_of_an_enrolled_node_does(
    site: Site, tmp_path: Path, hours: float, problems: tuple[str, ...]
) -> None:
    now = datetime.now(UTC)
    taken = (now + timedelta(hours=hours)).isoformat()
    file = write_inventory(tmp_path, inventory("gpu-1", [on_disk(ENGINE)], taken_at=taken))
    (node,) = read_nodes(site.bench.registry, [file], now=now)
    assert node.problems == problems
