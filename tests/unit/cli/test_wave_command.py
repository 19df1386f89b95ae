"""`ek wave plan`: exit codes, what is told, and what cannot be planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.fleet.inventory import Evidence, RunningEngine
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk, write_inventory

Ek = Callable[..., Any]
R595 = ("wave", "plan", "--driver", "595.71.05")
ON_R595 = replace(H100, driver="595.71.05", cuda_driver="13.2")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def fleet(tmp_path: Path, engine: Engine) -> Path:
    """Three nodes with the engine and one with nothing on it."""
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        found = inventory(name, [on_disk(engine.digest)], labels={"pool": f"pool-{name[-1]}"})
        write_inventory(tmp_path / "fleet", found)
    return write_inventory(tmp_path / "fleet", inventory("spare-1")).parent


def test_what_must_be_judged_holds_its_nodes_and_exits_7(
    ek: Ek, fleet: Path, engine: Engine
) -> None:
    said = ek(*R595, "--inventory", fleet, "--json")
    assert said.code == ExitCode.DRIFT
    (group,) = said.json["groups"]
    assert (group["action"], group["engine"]) == ("revalidate", str(engine.digest))
    assert [one["rule"] for one in group["rules"]] == ["not-judged-there"]
    assert said.json["held"][0]["nodes"] == ["gpu-1", "gpu-2", "gpu-3"]
    assert said.json["ready"] == ["spare-1"]
    text = ek(*R595, "--inventory", fleet)
    assert "HOLD gpu-1, gpu-2, gpu-3" in text.err
    assert "1 nodes may be upgraded now, 3 must wait" in text.err
    assert engine.digest.short in text.out


def test_an_old_inventory_holds_its_node_whatever_is_proven(
    ek: Ek, fleet: Path, site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    old = inventory("gpu-2", [on_disk(engine.digest)], taken_at="2020-01-01T00:00:00+00:00")
    write_inventory(fleet, old)
    said = ek(*R595, "--inventory", fleet, "--json")
    assert said.code == ExitCode.DRIFT
    assert said.json["held"] == [
        {"nodes": ["gpu-2"], "reasons": ["its newest inventory is more than 24 hours old"]}
    ]


def test_when_all_is_judged_it_exits_0(
    ek: Ek, fleet: Path, site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    said = ek(*R595, "--inventory", fleet, "--json")
    assert (said.code, said.json["held"]) == (ExitCode.OK, [])


def test_what_is_refused_exits_8_with_rule_and_source(ek: Ek, fleet: Path) -> None:
    said = ek("wave", "plan", "--driver", "570.124.06", "--inventory", fleet)
    assert said.code == ExitCode.REFUSED
    assert "driver-runs-cuda" in said.out
    assert "source: docs.nvidia.com/deploy/cuda-compatibility" in said.err


def test_a_new_cuda_is_a_build_with_its_cost(ek: Ek, fleet: Path, engine: Engine) -> None:
    said = ek(*R595, "--cuda", "13.2", "--inventory", fleet, "--json")
    (group,) = said.json["groups"]
    assert (said.code, group["action"]) == (ExitCode.DRIFT, "rebuild")
    assert group["build_gpu_hours"] == pytest.approx(5 / 60)  # as its builder signed: five minutes
    assert group["bytes"] == 3 * engine.size


@pytest.mark.parametrize(
    ("selector", "picked"),
    [("gpu-{1,2}", 2), ("spare-*", 0), ("pool=pool-3", 1), ("pool=pool-[12]", 2)],
)
def test_selectors_pick_nodes_by_name_and_label(
    ek: Ek, fleet: Path, selector: str, picked: int
) -> None:
    said = ek(*R595, "--inventory", fleet, "--nodes", selector, "--json")
    assert sum(len(one["nodes"]) for one in said.json["held"]) == picked


@pytest.mark.parametrize("selector", ["none-*", "zone=a"])
def test_a_selector_that_picks_nothing_exits_4(ek: Ek, fleet: Path, selector: str) -> None:
    said = ek(*R595, "--inventory", fleet, "--nodes", selector)
    assert said.code == ExitCode.NOT_FOUND


def test_a_quarantined_engine_holds_its_nodes(
    ek: Ek, fleet: Path, engine: Engine, site: Site, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    asked = ("engine", "quarantine", engine.digest.short, "--reason", "odd answers", "--yes")
    assert ek(*asked).code == ExitCode.OK
    said = ek(*R595, "--inventory", fleet, "--json")
    assert said.code == ExitCode.DRIFT
    assert "odd answers" in said.json["held"][0]["reasons"][0]


def test_an_engine_that_nobody_signed_exits_11(ek: Ek, fleet: Path, site: Site) -> None:
    site.distrust("build")
    assert ek(*R595, "--inventory", fleet).code == ExitCode.INTEGRITY


def test_an_engine_that_runs_from_a_place_that_no_record_names_holds_its_node(
    ek: Ek, engine: Engine, tmp_path: Path
) -> None:
    run = RunningEngine(
        str(engine.digest), "/mnt/shared/m", 4711, "2026-11-24T12:00:00+00:00",
        Evidence.CONFIRMED, ("GPU-00000000",),
    )  # fmt: skip
    write_inventory(tmp_path / "fleet", inventory("gpu-1", running=(run,)))
    said = ek(*R595, "--inventory", tmp_path / "fleet", "--json")
    assert (said.code, said.json["ready"]) == (ExitCode.DRIFT, [])
    assert said.json["held"][0]["nodes"] == ["gpu-1"]


def test_simulated_nodes_are_marked_and_left_out_where_there_are_real_ones(
    ek: Ek, fleet: Path, engine: Engine
) -> None:
    alone = ek(*R595, "--inventory", fleet, "--json")
    write_inventory(fleet, inventory("sim-1", [on_disk(engine.digest)], simulated=True))
    mixed = ek(*R595, "--inventory", fleet)
    assert mixed.code == alone.code
    assert "simulated, among real nodes, and left out: sim-1" in mixed.err
    said = ek(*R595, "--inventory", fleet, "--json")
    assert said.json == {**alone.json, "left_out": ["sim-1"]}
    begun = ("wave", "start", *R595[2:], "--inventory", fleet, "--dry-run", "--json")
    assert "left out: sim-1" in ek(*begun).err

    said = ek(*R595, "--inventory", fleet, "--nodes", "sim-*")
    assert said.code == ExitCode.DRIFT
    assert said.err.startswith("SIMULATED")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--driver", "R595"), ExitCode.INVALID_INPUT),
        (("--driver", "620.10.01"), ExitCode.INVALID_INPUT),
        (("--driver", "595.71.5"), ExitCode.INVALID_INPUT),
        (("--driver", "595.71.05", "--cuda", "x"), ExitCode.INVALID_INPUT),
    ],
)
def test_what_is_no_change_exits_3(
    ek: Ek, fleet: Path, options: tuple[str, ...], code: ExitCode
) -> None:
    said = ek("wave", "plan", *options, "--inventory", fleet, "--json")
    assert (said.code, json.loads(said.err)["exit_code"]) == (code, code)


def test_an_inventory_that_is_none_is_named(ek: Ek, fleet: Path) -> None:
    (fleet / "gpu-9.json").write_text('{"schema": 1}')
    said = ek(*R595, "--inventory", fleet)
    assert said.code == ExitCode.INVALID_INPUT
    assert "gpu-9.json" in said.err
    assert ek(*R595, "--inventory", fleet / "gone").code == ExitCode.NOT_FOUND


def test_nodes_are_named_by_traffic_where_somebody_knows_it(
    ek: Ek, fleet: Path, tmp_path: Path
) -> None:
    file = tmp_path / "traffic.json"
    file.write_text(json.dumps({"gpu-1": 90, "gpu-3": 2.5, "spare-1": 0}))
    said = ek(*R595, "--inventory", fleet, "--traffic", file, "--json")
    assert said.json["groups"][0]["nodes"] == ["gpu-3", "gpu-1", "gpu-2"]
    assert said.json["held"][0]["nodes"] == ["gpu-3", "gpu-1", "gpu-2"]
    assert said.json["order"] == {"by": "traffic", "source": str(file), "unknown": 1}
    text = ek(*R595, "--inventory", fleet, "--traffic", file).err
    assert "by traffic, the least first" in text
    assert "1 of which nothing is known" in text
    assert ek(*R595, "--inventory", fleet, "--json").json["order"] == {"by": "name"}
    assert "nobody said how busy" in ek(*R595, "--inventory", fleet).err
    assert ek(*R595, "--inventory", fleet, "--traffic-query", "up").code == ExitCode.USAGE
    assert ek(*R595, "--inventory", fleet, "--traffic", tmp_path / "no").code == ExitCode.NOT_FOUND
