"""`ek drift ignore`: whose word excuses a node, what no rule excuses by the way, when it ends."""

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
from registry.fleet.types import DriftIgnore
from registry.lifecycle import quarantine
from registry.types import Engine
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import enrolled, join
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk

Ek = Callable[..., Any]
QUALIFIED = DriverState(H100.driver, H100.cuda_driver)
R595 = DriverState("595.71.05", "13.2")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """An engine that passed on the nodes' GPU under their driver."""
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def catalogue(site: Site) -> Catalogue:
    return site.bench.registry.catalogue


def node(name: str, engine: Engine, driver: DriverState, **labels: str) -> Inventory:
    found = inventory(name, [on_disk(engine.digest)], labels=labels)
    return replace(found, driver=driver)


def test_an_expired_rule_counts_no_more(ek: Ek, catalogue: Catalogue, engine: Engine) -> None:
    join(catalogue, node("gpu-1", engine, R595))
    now = datetime.now(UTC)
    with catalogue.edit(actor="anna") as draft:
        draft.fleet.ignore(DriftIgnore("*", "*", "x", "anna", now, now))
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT


def test_a_rule_that_has_ended_already_is_refused(ek: Ek) -> None:
    said = ek("drift", "ignore", "*", "*", "--reason", "x", "--until", "2020-01-01")
    assert (said.code, "is past" in said.err) == (ExitCode.USAGE, True)
    assert ek("drift", "rules", "--json").json == []


def test_a_node_that_calls_itself_excused_is_not(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine, R595, pool="trial"))
    ek("drift", "ignore", "*", "pool=trial", "--reason", "trial")
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT
    join(catalogue, node("gpu-2", engine, R595), pool="trial")
    assert {one["node"]: one["sync"] for one in ek("drift", "--json").json} == {
        "gpu-1": "out-of-sync", "gpu-2": "unassigned",
    }  # fmt: skip


def test_what_is_critical_is_excused_by_its_name_alone(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine, QUALIFIED))
    quarantine(site.bench.registry, engine, "bad output")
    ek("drift", "ignore", "*", "*", "--reason", "noise")
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT
    ek("drift", "ignore", "revoked", "*", "--reason", "known")
    assert ek("drift", "--fail-on-drift").code == ExitCode.OK


def test_a_node_that_never_reports_is_stale(ek: Ek, catalogue: Catalogue) -> None:
    enrolled(catalogue, "gpu-new", at=datetime.now(UTC))
    assert ek("drift", "--fail-on-drift").code == ExitCode.OK
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    enrolled(catalogue, "gpu-lost", at=hour_ago, labels={"pool": "spare"})
    (finding,) = (one for found in ek("drift", "--json").json for one in found["findings"])
    assert (finding["class"], finding["since"]) == ("stale", hour_ago.isoformat())
    assert ek("drift", "--summary", "--json").json["drift"] == {"stale": 1}
    for how in ([], ["--summary"]):
        assert ek("drift", "--fail-on-drift", *how).code == ExitCode.DRIFT
    ek("drift", "ignore", "stale", "pool=spare", "--reason", "in a box")
    for how in ([], ["--summary"]):
        assert ek("drift", "--fail-on-drift", *how).code == ExitCode.OK
