"""`sim fleet`: the same fleet for the same seed, marked simulated, and taken as any other is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.inventories import read_inventories
from registry.types import Engine
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu

Ek = Callable[..., Any]


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


def test_the_same_seed_makes_the_same_fleet_and_all_of_it_is_marked(
    ek: Ek, engine: Engine, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        said = ek("sim", "fleet", "--nodes", 60, "--seed", seed, "--output", file)
        assert (said.code, "SIMULATED" in said.err) == (0, True)
    first, again, other = (
        [(one.node, one.driver, one.engines and one.engines[0].engine, one.lost, one.labels)
         for one in read_inventories([file])]
        for file in files
    )  # fmt: skip
    assert first == again
    assert first != other
    found = read_inventories([files[0]])
    assert all(one.simulated for one in found)
    with_engine = {one.devices[0].product for one in found if one.engines}
    assert with_engine == {H100.product}
    assert {one.engine for node in found for one in node.engines} == {str(engine.digest)}


def test_a_wave_is_planned_over_it(ek: Ek, engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "fleet.jsonl"
    ek("sim", "fleet", "--nodes", 40, "--output", file)
    plan = ek("wave", "plan", "--driver", "595.71.05", "--inventory", file, "--json").json
    assert plan["simulated"] is True
    assert {group["engine"] for group in plan["groups"]} == {str(engine.digest)}


def test_a_fleet_that_joined_is_asked_like_any_other(ek: Ek, engine: Engine) -> None:
    said = ek("sim", "fleet", "--nodes", 210, "--join", "--json")
    assert (said.code, said.json["joined"]) == (0, 210), said.err
    rows = ek("nodes", "--json").json
    assert len(rows) == 210
    placed = ek("where", "--engine", engine.digest.short, "--json").json
    assert {one["simulated"] for one in placed} == {True}
    again = ek("sim", "fleet", "--nodes", 1, "--join")
    assert (again.code, "--prefix" in again.err) == (3, True)
    assert ek("sim", "fleet", "--nodes", 1, "--join", "--prefix", "b").code == 0


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [((), 2), (("--join", "--prefix", "../x"), 3), (("--join", "--nodes", "0"), 2)],
)
def test_what_makes_no_fleet_is_refused(ek: Ek, arguments: tuple[str, ...], code: int) -> None:
    assert ek("sim", "fleet", *arguments).code == code
