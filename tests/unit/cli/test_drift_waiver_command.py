"""`ek drift` and waivers: what the gate lets run by them is excused, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.inventory import Inventory
from registry.catalogue import Catalogue
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import join
from tests.factories.gpu_engines import H100, engine_in_channel
from tests.factories.inventories import inventory, on_disk

Ek = Callable[..., Any]
R580, R595 = DriverState(H100.driver, H100.cuda_driver), DriverState("595.71.05", "13.2")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """An engine that passed under R580 and is in the channel."""
    return engine_in_channel(site, tmp_path)


@pytest.fixture
def catalogue(site: Site) -> Catalogue:
    return site.bench.registry.catalogue


def node(name: str, engine: Engine, *, under: DriverState = R580) -> Inventory:
    found = inventory(name, [on_disk(engine.digest)], labels={"pool": "h100"})
    return replace(found, driver=under)


def waive(ek: Ek, engine: Engine, rule: str, *more: object) -> None:
    """Lets somebody waive a rule of the gate for an engine."""
    ek("key", "create", "approver")
    ek("key", "trust", "approver")
    said = ek(
        "waiver", "grant", engine.digest.short, "--rule", rule, "--reason", "night",
        "--until", (datetime.now(UTC) + timedelta(days=1)).isoformat(), "--everywhere", *more,
    )  # fmt: skip
    assert said.code == ExitCode.OK, said.err


def test_a_waiver_excuses_what_it_waives(ek: Ek, catalogue: Catalogue, engine: Engine) -> None:
    join(catalogue, node("gpu-1", engine, under=R595))
    waive(ek, engine, "not-qualified-here")
    (found,) = ek("drift", "--json").json
    assert "night" in found["findings"][0]["ignored"]


def test_what_is_assigned_and_waived_is_in_sync(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "pool=h100", engine.model_name, "prod")
    join(catalogue, node("gpu-1", engine, under=R595))
    assert {one["class"] for one in ek("drift", "--json").json[0]["findings"]} == {
        "driver", "missing",
    }  # fmt: skip
    waive(ek, engine, "not-qualified-here")
    (found,) = ek("drift", "--json").json
    assert (found["sync"], [one["class"] for one in found["findings"]]) == ("in-sync", ["driver"])
    summary = ek("drift", "--summary", "--json").json
    assert (summary["sync"], summary["drift"]) == ({"in-sync": 1}, {})


@pytest.mark.parametrize("rule", ["not-qualified-here", "stale-snapshot", "incompatible"])
def test_a_waiver_of_another_rule_excuses_no_failure(
    ek: Ek, engine: Engine, site: Site, tmp_path: Path, rule: str
) -> None:
    waive(ek, engine, rule)
    catalogue = site.bench.registry.catalogue
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, H100)
    join(catalogue, node("gpu-1", engine))
    assert not site.bench.registry.gate(engine.digest, H100).is_open
    (found,) = ek("drift", "--json").json
    assert found["findings"][0]["ignored"] is None
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT
    assert ek("drift", "--summary", "--fail-on-drift").code == ExitCode.DRIFT


def test_a_waiver_of_one_failure_excuses_not_the_next(
    ek: Ek, engine: Engine, site: Site, tmp_path: Path
) -> None:
    catalogue = site.bench.registry.catalogue
    join(catalogue, node("gpu-1", engine))
    failed = site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, H100)
    waive(ek, engine, "verdict-failed", "--verdict", failed.digest)
    assert ek("drift", "--fail-on-drift").code == ExitCode.OK
    assert ek("drift", "--summary", "--fail-on-drift").code == ExitCode.OK
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, H100, note="another")
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT
    assert ek("drift", "--summary", "--fail-on-drift").code == ExitCode.DRIFT


@pytest.mark.parametrize(("rule", "sync"), [
    ("not-qualified-here", "out-of-sync"), ("incompatible", "in-sync"),
])  # fmt: skip
def test_what_the_gate_is_not_asked_of_a_host_no_other_waiver_excuses(
    ek: Ek, catalogue: Catalogue, engine: Engine, rule: str, sync: str
) -> None:
    ek("assign", "add", "pool=h100", engine.model_name, "prod")
    here = R580 if rule == "incompatible" else R595
    found = node("gpu-1", engine, under=here)
    join(catalogue, replace(found, host=replace(found.host, cpu_architecture="aarch64")))
    waive(ek, engine, rule)
    assert ek("drift", "--all", "--json").json[0]["sync"] == sync
    assert ek("drift", "--summary", "--json").json["sync"] == {sync: 1}
