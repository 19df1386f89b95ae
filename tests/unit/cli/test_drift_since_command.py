"""`ek drift`: since when something is otherwise, and whose doing, whatever else changed since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.interface import DriverState, LostDevice
from enginekeeper.fleet.inventory import Evidence, Inventory, RunningEngine
from enginekeeper.orchestration.drift_nodes import node_drifts
from enginekeeper.orchestration.drift_report import drift_of
from registry.catalogue import Catalogue
from registry.digests import digest_bytes
from registry.environments import DriverScope
from registry.lifecycle import quarantine, release, revoke
from registry.signing import open_signer
from registry.trust import Purpose
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import join
from tests.factories.gpu_engines import H100, engine_in_channel
from tests.factories.inventories import device, inventory, on_disk

Ek = Callable[..., Any]
R580, R595 = DriverState(H100.driver, H100.cuda_driver), DriverState("595.71.05", "13.2")
LONG_AGO = datetime.now(UTC) - timedelta(days=9)
UNKNOWN = digest_bytes(b"nobody built it")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """An engine that passed under R580 and is in the channel."""
    return engine_in_channel(site, tmp_path)


@pytest.fixture
def catalogue(site: Site) -> Catalogue:
    return site.bench.registry.catalogue


def day(number: int) -> datetime:
    return LONG_AGO + timedelta(days=number)


def node(*engines: object, **fields: Any) -> Inventory:  # noqa: ANN401 - of Inventory
    return replace(inventory("gpu-1", [on_disk(one) for one in engines], driver=R580), **fields)


def serving(engine: object, gpu: int, image: str | None = None) -> Inventory:
    """The node where a process runs an engine on one of the GPUs."""
    where = (f"GPU-{gpu:08d}",)
    run = RunningEngine(
        str(engine), "/engines/m", 100 + gpu, "", Evidence.CONFIRMED, where, image=image
    )
    return node(engine, running=(run,))


def finding(ek: Ek, kind: str) -> tuple[datetime, str]:
    """Returns since when there is drift of a class, and its cause."""
    (found,) = ek("drift", "--json", "--class", kind).json
    (one,) = found["findings"]
    return datetime.fromisoformat(one["since"]), one["cause"]


def test_a_driver_is_otherwise_since_it_came_whatever_else_changed_since(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node(engine.digest), now=day(0))
    later: dict[int, dict[str, Any]] = {
        1: {},
        2: {"labels": {"rack": "2"}},
        3: {"lost": (LostDevice(7, "GPU is lost"),), "devices": (device(0),)},
        4: {"driver": None, "devices": (), "problem": "NVML does not start"},
        5: {},
    }
    for number, fields in later.items():
        join(catalogue, node(engine.digest, **{"driver": R595, **fields}), now=day(number))
    assert finding(ek, "driver") == (day(1), "corrective")


def test_an_engine_that_came_to_a_driver_is_otherwise_since_it_came(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node(driver=R595), now=day(0))
    join(catalogue, node(engine.digest, driver=R595), now=day(1))
    assert finding(ek, "driver") == (day(1), "corrective")


def test_a_process_that_is_started_anew_on_another_gpu_begins_nothing(
    ek: Ek, catalogue: Catalogue, engine: Engine, site: Site
) -> None:
    join(catalogue, serving(UNKNOWN, 0), now=day(0))
    join(catalogue, serving(UNKNOWN, 1), now=day(1))
    assert finding(ek, "unknown") == (day(0), "corrective")

    join(catalogue, serving(engine.digest, 0), now=day(2))
    quarantine(site.bench.registry, engine, "smells")
    join(catalogue, serving(engine.digest, 1))
    since, cause = finding(ek, "revoked")
    assert (since > day(3), cause) == (True, "intentional")


def test_bytes_are_otherwise_since_they_changed(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node(engine.digest), now=day(0))
    changed = replace(node(), engines=(on_disk(engine.digest, "CHANGED"),))
    join(catalogue, changed, now=day(1))
    assert finding(ek, "bytes") == (day(1), "corrective")


def test_what_failed_is_otherwise_since_the_first_verdict_that_is_no_pass(
    ek: Ek, catalogue: Catalogue, engine: Engine, site: Site, tmp_path: Path
) -> None:
    join(catalogue, node(engine.digest), now=day(0))
    variant, failed_at = variants_of(tmp_path)[0], datetime.now(UTC) + timedelta(seconds=1)
    site.judge(engine, variant, Result.FAIL, H100, at=failed_at)
    site.judge(engine, variant, Result.INCONCLUSIVE, H100, at=failed_at + timedelta(seconds=1))
    assert finding(ek, "unqualified") == (failed_at, "intentional")

    join(catalogue, node(), now=day(8))
    join(catalogue, node(engine.digest), now=failed_at + timedelta(seconds=2))
    assert finding(ek, "unqualified") == (failed_at + timedelta(seconds=2), "corrective")


def test_what_is_desired_is_missing_since_it_went(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, node(engine.digest), now=day(0))
    gone = datetime.now(UTC) + timedelta(seconds=1)
    join(catalogue, node(), now=gone)
    join(catalogue, node(labels={"rack": "2"}), now=gone + timedelta(seconds=1))
    assert finding(ek, "missing") == (gone, "corrective")


@pytest.mark.parametrize("before", [
    {"labels": {"pool": "spare"}}, {"devices": (device(0, product="NVIDIA L4"),)},
])  # fmt: skip
def test_what_is_assigned_is_missing_since_the_node_became_one_that_it_is_for(
    ek: Ek, catalogue: Catalogue, engine: Engine, before: dict[str, Any]
) -> None:
    ek("assign", "add", "pool=h100", engine.model_name, "prod")
    now = datetime.now(UTC) + timedelta(seconds=1)
    as_now = {"labels": {"pool": "h100"}}
    join(catalogue, node(**as_now), now=day(0))
    join(catalogue, node(**as_now | before), now=day(1))
    join(catalogue, node(**as_now), now=now)
    join(catalogue, node(driver=None, devices=(), problem="NVML is off", **as_now), now=now)
    join(catalogue, node(labels={"pool": "h100", "rack": "2"}), now=now)
    assert finding(ek, "missing") == (now, "corrective")


@pytest.mark.parametrize("closed_by", ["verdict", "quarantine", "driver"])
def test_nothing_may_run_since_the_last_engine_of_the_channel_was_closed(
    ek: Ek, engine: Engine, site: Site, tmp_path: Path, closed_by: str
) -> None:
    catalogue = site.bench.registry.catalogue
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, node(), now=day(0))
    (now, cause), at = finding(ek, "missing"), datetime.now(UTC) + timedelta(seconds=2)
    assert (now < at, cause) == (True, "intentional")
    if closed_by == "verdict":
        site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, H100, at=at)
    elif closed_by == "quarantine":
        quarantine(site.bench.registry, engine, "smells")
        with catalogue.read() as view:
            at = view.standings([engine.digest])[engine.digest][0].changed_at
    else:
        join(catalogue, node(driver=R595), now=at)
    cause = "corrective" if closed_by == "driver" else "intentional"
    assert finding(ek, "missing") == (at, cause)


def test_an_engine_that_was_quarantined_before_its_revocation_is_held_since_then(
    ek: Ek, catalogue: Catalogue, engine: Engine, site: Site
) -> None:
    join(catalogue, node(engine.digest), now=day(0))
    quarantine(site.bench.registry, engine, "smells")
    release(site.bench.registry, engine, "it was the drain")
    again = quarantine(site.bench.registry, engine, "smells again")
    signer = open_signer(site.bench.keys, Purpose.REVOCATION)
    revoke(site.bench.registry, engine, "it was no drain", signer)
    assert finding(ek, "revoked") == (again.changed_at, "intentional")


def test_of_an_engine_whose_builder_is_trusted_no_more_nobody_can_tell_since_when(
    ek: Ek, catalogue: Catalogue, engine: Engine, site: Site
) -> None:
    join(catalogue, node(engine.digest), now=day(0))
    site.revoke(Purpose.BUILD, since=day(0))
    (found,) = ek("drift", "--json", "--class", "revoked").json
    (one,) = found["findings"]
    assert (one["since"], one["cause"]) == (None, "intentional")
    assert "revoked" in ek("drift").out


def test_nor_since_when_no_engine_of_a_channel_may_run_for_that(
    ek: Ek, catalogue: Catalogue, engine: Engine, site: Site
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, node(), now=day(0))
    site.revoke(Purpose.BUILD, since=day(0))
    (found,) = ek("drift", "--json", "--class", "missing").json
    (one,) = found["findings"]
    assert (one["since"], one["cause"]) == (None, "intentional")


def test_a_pass_that_was_overtaken_before_it_was_recorded_ends_no_failure(
    catalogue: Catalogue, engine: Engine, site: Site, tmp_path: Path
) -> None:
    on_r595 = replace(H100, driver="595.80.01", cuda_driver="13.2")
    variant, failed_at = variants_of(tmp_path)[0], datetime.now(UTC) - timedelta(days=1)
    join(catalogue, node(engine.digest, driver=DriverState("595.80.01", "13.2")), now=day(0))
    other, third = (replace(on_r595, driver=one) for one in ("595.71.05", "595.45.04"))
    site.judge(engine, variant, Result.FAIL, other, at=failed_at)
    site.judge(engine, variant, Result.PASS, third, at=failed_at - timedelta(days=1))

    now, scope = datetime.now(UTC), DriverScope.BRANCH
    found = drift_of(replace(site.bench.registry, driver_scope=scope), now, verified=True)
    with catalogue.read() as view:
        (drift,) = node_drifts(view, found, now, stale_after=timedelta(days=99), scope=scope)
    assert [(one.since, one.cause) for one in drift.findings] == [(failed_at, "intentional")]
