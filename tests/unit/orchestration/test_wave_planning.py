"""What a wave believes of the catalogue: what the gate believes, waivers left out."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enginekeeper.compatibility.placing import Effect
from enginekeeper.fleet.profiles import profile_of
from enginekeeper.orchestration.drift import Judge
from enginekeeper.orchestration.drift_report import recorded_engines
from enginekeeper.orchestration.fleet_reading import plan_of
from enginekeeper.orchestration.wave_planning import known_engines
from enginekeeper.orchestration.waves import DriverChange, FleetEngine, WavePlan
from registry.environments import DriverScope
from registry.errors import IntegrityError
from registry.freshness import Freshness
from registry.lifecycle import quarantine
from registry.service import Registry
from registry.signing import TRUST_FILE
from registry.snapshots import RegistryState, Snapshot
from registry.trust import Purpose
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk, write_inventory
from tests.fakes.statements import asked

R595 = DriverChange.to("595.71.05", on=datetime(2026, 11, 26, tzinfo=UTC).date())
ON_R595 = replace(H100, driver="595.71.05", cuda_driver="13.2")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """An engine that passed on both drivers."""
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100, ON_R595)


def planned(
    site: Site, engine: Engine, tmp_path: Path, registry: Registry | None = None
) -> WavePlan:
    place = write_inventory(tmp_path / "fleet", inventory("gpu-1", [on_disk(engine.digest)]))
    return plan_of(registry or site.bench.registry, [place], (), R595)


def reasons(plan: WavePlan) -> str:
    return " ".join(reason for held in plan.held for reason in held.reasons)


def test_a_revoked_validator_holds_the_node_until_it_is_judged_again(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.revoke(Purpose.VERDICT)
    plan = planned(site, engine, tmp_path)
    assert [group.action for group in plan.groups] == [Effect.REVALIDATE]
    assert "verdict-not-attested" in reasons(plan)
    assert "stolen laptop" in plan.groups[0].decision.deciding[0].finding.actual
    assert site.bench.registry.gate(engine.digest, ON_R595).rule == "verdict-not-attested"

    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    assert planned(site, engine, tmp_path).ready == ("gpu-1",)
    assert site.bench.registry.gate(engine.digest, ON_R595).is_open


@pytest.mark.parametrize(("days", "ready"), [(1, ()), (-1, ("gpu-1",))])
def test_a_pass_that_was_issued_before_a_failure_does_not_count_for_being_recorded_after_it(
    site: Site, tmp_path: Path, days: int, ready: tuple[str, ...]
) -> None:
    variant, failed_at = variants_of(tmp_path)[0], datetime.now(UTC) - timedelta(days=2)
    engine = publish_for_gpu(site, variant, H100)
    nearby, other = (replace(ON_R595, driver=f"595.{minor}") for minor in ("45.04", "58.03"))
    site.judge(engine, variant, Result.FAIL, nearby, at=failed_at)
    site.judge(engine, variant, Result.PASS, other, at=failed_at - timedelta(days=days))
    registry = replace(site.bench.registry, driver_scope=DriverScope.BRANCH)

    assert planned(site, engine, tmp_path, registry).ready == ready

    assert registry.gate(engine.digest, ON_R595).is_open is bool(ready)
    with registry.catalogue.read() as view:
        engines = recorded_engines(view, [str(engine.digest)])
    judge = Judge(engines, {}, R595.on, registry.driver_scope)
    profile = replace(profile_of(inventory()), driver=R595.driver)
    assert (judge.standing(profile, str(engine.digest)) == ()) is bool(ready)


def test_a_revoked_builder_holds_the_engine_and_the_rest_is_planned(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.revoke(Purpose.BUILD)
    plan = planned(site, engine, tmp_path)
    assert (plan.groups, plan.ready) == ((), ())
    assert "not trusted any more" in reasons(plan)
    assert "stolen laptop" in reasons(plan)
    found = known_engines(site.bench.registry, [str(engine.digest)], simulated_nodes=False)
    assert found[str(engine.digest)].build_gpu_seconds is None


def test_an_engine_that_is_not_what_was_signed_stops_the_plan(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.tamper("update engines set target='l40s'")
    with pytest.raises(IntegrityError, match="is not what was signed"):
        planned(site, engine, tmp_path)


def test_a_trust_that_asks_for_a_snapshot_holds_what_none_vouches_for(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    path = site.bench.keys / TRUST_FILE
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "snapshot": "required"}))
    assert site.bench.registry.gate(engine.digest, ON_R595).rule == "stale-snapshot"
    assert "no fresh snapshot" in reasons(planned(site, engine, tmp_path))


def test_what_the_snapshot_revokes_is_held_whatever_the_catalogue_says(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = RegistryState(revoked_engines=frozenset({engine.digest}))
    now = datetime.now(UTC)
    fresh = Freshness(Snapshot(1, now, now, state, engine.digest), None)
    looks: list[Freshness] = []

    def freshness(_registry: Registry) -> Freshness:
        looks.append(fresh)
        return fresh

    monkeypatch.setattr(Registry, "freshness", freshness)
    found = known_engines(site.bench.registry, [str(engine.digest)], simulated_nodes=False)
    assert found[str(engine.digest)].withdrawn == "revoked, as the registry's signed snapshot says"
    assert len(looks) == 1


def test_one_more_engine_costs_no_statement_more(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    more = publish_for_gpu(site, variants_of(tmp_path)[0], H100, content=b"other", recipe="w8a16")
    registry, both = site.bench.registry, [str(engine.digest), str(more.digest)]
    quarantine(registry, more, "wrong answers")
    counts: list[int] = []
    found: dict[str, FleetEngine] = {}
    for some in (both[1:], both):
        with asked() as statements:
            found = known_engines(registry, some, simulated_nodes=False)
        assert set(found) == set(some)
        counts.append(len(statements))
    assert counts[0] == counts[1]
    assert "wrong answers" in (found[str(more.digest)].withdrawn or "")
    assert found[str(engine.digest)].withdrawn is None
    assert [one.environment for one in found[str(engine.digest)].judgements] == [ON_R595, H100]
