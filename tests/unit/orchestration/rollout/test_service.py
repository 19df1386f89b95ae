"""Waves over inventories and a registry: started, gone on with, stopped, turned back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.errors import EngineKeeperError, MissingError, UnavailableError
from enginekeeper.fleet.interface import DriverState
from enginekeeper.orchestration.fleet_reading import read_nodes
from enginekeeper.orchestration.rollout import service
from enginekeeper.orchestration.rollout.found import follow, react
from enginekeeper.orchestration.rollout.service import Announcement
from enginekeeper.orchestration.rollout.work import Dispatch
from enginekeeper.orchestration.wave_planning import plan_nodes
from enginekeeper.orchestration.waves import DriverChange
from registry.errors import ConflictError, GateRefusedError
from registry.types import Engine, Result
from registry.waves.types import Origin, Phase, Role, Terms, Wave, WaveWork
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import enrolled, join
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import device, inventory, on_disk, write_inventory
from tests.factories.waves import NEW, NO_SOAK, NOON, OLD, later, stages
from tests.fakes.statements import asked

R595 = DriverChange.to(NEW, on=NOON.date())
ON_R595 = replace(H100, driver=NEW, cuda_driver="13.2")
NEWER = "610.43.02"


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def fleet(tmp_path: Path, engine: Engine) -> Path:
    place = tmp_path / "fleet"
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        report(place, name, engine)
    report(place, "spare")
    return place


def report(place: Path, name: str, *engines: Engine, driver: str = OLD, **fields: Any) -> None:  # noqa: ANN401 - of an inventory
    """Writes a node's inventory anew, by the CUDA of its driver."""
    api = {OLD: "13.0", NEW: "13.2", NEWER: "13.3"}[driver]
    taken_at = later(0).isoformat()
    found = inventory(
        name, [on_disk(one.digest) for one in engines], **{"taken_at": taken_at, **fields}
    )
    assert found.driver is not None
    said = replace(found, driver=replace(found.driver, version=driver, cuda=api))
    write_inventory(place, said)


def begin(site: Site, fleet: Path, **fields: Any) -> Wave:  # noqa: ANN401 - of an announcement
    base: dict[str, Any] = {"qualify": ("spare",), "terms": NO_SOAK, "name": "w"}
    said = Announcement(change=R595, places=(fleet,), **{**base, **fields})
    return service.start(site.bench.registry, said, now=NOON).after


def step(site: Site, seconds: float, **fields: Any) -> Wave:  # noqa: ANN401 - of go_on
    return service.go_on(site.bench.registry, "w", now=later(seconds), **fields).after


def test_a_wave_from_announcement_to_done_with_its_time_to_safe(
    site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    begun = begin(site, fleet)
    assert stages(begun) == {
        "gpu-1": "held", "gpu-2": "held", "gpu-3": "held", "spare": "released",
    }  # fmt: skip
    assert [(one.action, one.state) for one in begun.work] == [("revalidate", "waiting")]

    report(fleet, "spare", engine, driver=NEW)
    assert stages(step(site, 60))["spare"] == "upgraded"

    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    judged = step(site, 600)
    assert (judged.safe_at, judged.work[0].state) == (later(600), "done")
    assert stages(judged) == {
        "gpu-1": "released", "gpu-2": "held", "gpu-3": "held", "spare": "done",
    }  # fmt: skip
    assert judged.nodes[0].role is Role.CANARY

    last = judged
    for at, name in enumerate(("gpu-1", "gpu-2", "gpu-3"), 1):
        assert stages(service.read_wave(site.bench.registry, "w"))[name] == "released"
        report(fleet, name, engine, driver=NEW)
        last = step(site, 600 + 60 * at)
    assert (last.phase, last.ended_at) == (Phase.DONE, later(780))
    assert step(site, 999) == last


def test_what_serves_is_held_until_its_engine_is_judged_whatever_the_budget(
    site: Site, fleet: Path
) -> None:
    begin(site, fleet, terms=Terms(max_unavailable="100%", canary=3, soak_seconds=0))
    report(fleet, "spare", driver=NEW)
    after = step(site, 60)
    assert (after.phase, stages(after)["spare"]) == (Phase.CANARY, "done")
    assert [one for one in stages(after).values() if one == "released"] == []


def test_a_verdict_that_fails_there_stops_the_wave(
    site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    begin(site, fleet)
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, ON_R595)
    after = step(site, 60)
    assert after.phase is Phase.STOPPED
    assert f"failed under driver {NEW}: engine {engine.digest.short}" in (after.reason or "")


def test_a_driver_that_an_engine_cannot_work_under_begins_no_wave(site: Site, fleet: Path) -> None:
    said = Announcement(change=DriverChange.to("570.124.06", on=NOON.date()), places=(fleet,))
    with pytest.raises(GateRefusedError, match="no wait helps") as caught:
        service.start(site.bench.registry, said, now=NOON)
    assert "gpu-1, gpu-2, gpu-3" in str(caught.value)
    with site.bench.registry.catalogue.read() as view:
        assert view.waves.all() == []


def test_who_qualifies_must_be_there_and_serve_nothing(site: Site, fleet: Path) -> None:
    with pytest.raises(MissingError, match="not among the nodes"):
        begin(site, fleet, qualify=("gpu-9",))
    nodes = read_nodes(site.bench.registry, [fleet])
    serving = [replace(one, running=("sha256:abc",)) for one in nodes]
    plan = plan_nodes(site.bench.registry, serving, R595)
    with pytest.raises(ConflictError, match="drain spare"):
        service._qualifying(serving, plan, ("spare",))
    idle = [replace(one, running=() if one.name in ("gpu-2", "spare") else None) for one in nodes]
    assert service._qualifying(idle, plan, ()) == {"spare": Role.QUALIFICATION}


def test_a_gpu_that_no_node_qualifies_is_told(site: Site, engine: Engine, fleet: Path) -> None:
    for name in ("gpu-1", "gpu-2", "gpu-3", "spare"):
        report(fleet, name, engine, schema=1)  # which does not tell what runs
    said = Announcement(change=R595, places=(fleet,), name="w")
    drafted = service.draft(site.bench.registry, said, now=NOON)
    assert [kind.product for kind in service.uncovered(drafted)] == [H100.product]
    with site.bench.registry.catalogue.read() as view:
        assert view.waves.all() == []
    qualified = replace(said, qualify=("spare",))
    assert service.uncovered(service.draft(site.bench.registry, qualified, now=NOON)) == []


def test_an_aborted_wave_holds_and_a_rollback_goes_back_only_to_what_is_proven(
    site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    begin(site, fleet)
    report(fleet, "spare", engine, driver=NEW)
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    step(site, 60)
    registry = site.bench.registry
    ended = service.abort(registry, "w", "not today", now=later(70)).after
    assert (ended.phase, stages(ended)["gpu-1"], stages(ended)["spare"]) == (
        Phase.ABORTED, "held", "done",
    )  # fmt: skip
    with pytest.raises(ConflictError, match="cannot do that"):
        service.abort(registry, "w", "again", now=later(71))

    back = service.turn_back(registry, "w", "slow", now=later(80)).after
    assert (back.phase, stages(back)["spare"]) == (Phase.ROLLING_BACK, "reverting")
    report(fleet, "spare", engine)
    assert step(site, 85).phase is Phase.ROLLING_BACK  # gpu-1 was released, and may have begun
    report(fleet, "gpu-1", engine, taken_at=later(88).isoformat())
    assert step(site, 90).phase is Phase.ROLLED_BACK


def test_work_is_asked_for_once_when_its_gpu_has_the_driver(
    site: Site, engine: Engine, fleet: Path
) -> None:
    asked_for: list[WaveWork] = []

    def ask(work: WaveWork) -> str:
        asked_for.append(work)
        return f"run-{len(asked_for)}"

    begin(site, fleet)
    assert step(site, 10, dispatch=Dispatch(ask)).work[0].state == "waiting"
    report(fleet, "spare", driver=NEW)
    step(site, 20, dispatch=Dispatch(ask))
    after = step(site, 30, dispatch=Dispatch(ask))
    assert [(one.state, one.run, one.attempt) for one in after.work] == [("dispatched", "run-1", 1)]
    assert asked_for[0].key == (str(engine.digest), H100.product, "")
    again = step(site, 40, dispatch=Dispatch(ask, again=True))
    assert (again.work[0].run, again.work[0].attempt) == ("run-2", 2)


@pytest.mark.parametrize(
    ("error", "asked_again"), [(MissingError("no spec"), 1), (UnavailableError("no server"), 0)]
)
def test_what_cannot_be_asked_for_keeps_nothing_else_from_it_unless_nobody_answers(
    site: Site, fleet: Path, tmp_path: Path, error: EngineKeeperError, asked_again: int
) -> None:
    other = publish_for_gpu(site, variants_of(tmp_path)[0], H100, content=b"other", recipe="int8")
    report(fleet, "gpu-2", other)
    begin(site, fleet)
    report(fleet, "spare", driver=NEW)
    tried: list[WaveWork] = []

    def ask(work: WaveWork) -> str:
        tried.append(work)
        if len(tried) == 1:
            raise error
        return "run"

    done = service.go_on(site.bench.registry, "w", now=later(60), dispatch=Dispatch(ask))
    assert (done.fault, len(tried)) == (error, 1 + asked_again)
    assert service.read_wave(site.bench.registry, "w") == done.after
    assert sum(one.state == "dispatched" for one in done.after.work) == asked_again


def test_a_node_that_fails_stops_it_and_resuming_takes_it_up_again(
    site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    begin(site, fleet)
    report(fleet, "spare", driver=NEW, devices=(device(0, mig=None),))
    stopped = step(site, 60)
    assert (stopped.phase, "MIG cannot be read" in (stopped.reason or "")) == (Phase.STOPPED, True)
    report(fleet, "spare", driver=NEW)
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    after = service.resume(site.bench.registry, "w", now=later(90)).after
    assert (stages(after)["spare"], stages(after)["gpu-1"]) == ("done", "released")


def test_a_look_costs_as_many_statements_however_many_nodes_there_are(
    site: Site, engine: Engine, fleet: Path
) -> None:
    begin(site, fleet)
    counts = []
    for _ in range(2):
        with asked() as statements:
            service.look(site.bench.registry, service.read_wave(site.bench.registry, "w"), now=NOON)
        counts.append(len(statements))
        for at in range(20):
            report(fleet, f"more-{at}", engine)
    assert counts[0] == counts[1]


def test_what_was_found_costs_as_many_statements_however_many_drivers_there_are(
    site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    counts = []
    for _ in range(2):
        nodes = read_nodes(site.bench.registry, [fleet])
        with asked() as statements:
            assert react(site.bench.registry, nodes, now=NOON).unqualified == {}
        counts.append(len(statements))
        report(fleet, "gpu-2", engine, driver=NEW)
    # to record what is found takes a few more for each wave, and there is none here
    assert counts[0] == counts[1]


def test_a_wave_that_ended_is_not_turned_back_under_another_that_has_its_nodes(
    site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    begin(site, fleet)
    for name in ("gpu-1", "gpu-2", "gpu-3", "spare"):
        report(fleet, name, engine, driver=NEW)
    step(site, 60)
    assert step(site, 61).phase is Phase.DONE
    registry = site.bench.registry
    report(fleet, "gpu-1", engine)
    begin(site, fleet, name="next", qualify=())

    with pytest.raises(ConflictError, match="in a wave that goes on") as caught:
        service.turn_back(registry, "w", "slow", now=later(70))

    assert caught.value.actual == "wave next"
    assert service.read_wave(registry, "w").phase is Phase.DONE
    service.abort(registry, "next", "first back", now=later(80))
    back = service.turn_back(registry, "w", "slow", now=later(90)).after
    assert back.phase is Phase.ROLLING_BACK


# -- nodes of the catalogue ---------------------------------------------------------------------


def heard(site: Site, at: float, name: str, *engines: Engine, driver: str = OLD) -> None:
    """Lets an enrolled node report at a time."""
    found = inventory(name, [on_disk(one.digest) for one in engines])
    said = replace(found, driver=DriverState(driver, {OLD: "13.0", NEW: "13.2"}[driver]))
    join(site.bench.registry.catalogue, said, now=later(at))


def begin_enrolled(site: Site, engine: Engine, count: int, **terms: Any) -> Wave:  # noqa: ANN401 - of Terms
    """Begins a wave over enrolled nodes for which everything is proven."""
    for at in range(1, count + 1):
        heard(site, 0, f"gpu-{at}", engine)
    said = Announcement(change=R595, places=(), name="w", terms=Terms(**terms))
    return service.start(site.bench.registry, said, now=NOON).after


def test_a_canary_that_dies_under_the_driver_keeps_it_from_the_fleet(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    begun = begin_enrolled(site, engine, 3, soak_seconds=600)
    assert stages(begun) == {"gpu-1": "released", "gpu-2": "held", "gpu-3": "held"}
    heard(site, 300, "gpu-1", engine, driver=NEW)  # its only word under the driver
    assert stages(step(site, 300))["gpu-1"] == "done"

    for name in ("gpu-2", "gpu-3"):
        heard(site, 1000, name, engine)
    after = step(site, 1000)
    assert (after.phase, stages(after)) == (
        Phase.CANARY, {"gpu-1": "upgraded", "gpu-2": "held", "gpu-3": "held"},
    )  # fmt: skip
    stopped = step(site, 3901)
    assert (stopped.phase, stages(stopped)["gpu-1"]) == (Phase.STOPPED, "failed")
    assert "gpu-1: not heard for more than 3 minutes" in (stopped.reason or "")


def test_a_wave_goes_on_without_a_node_that_was_retired(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    begin_enrolled(site, engine, 3, soak_seconds=0)
    heard(site, 600, "gpu-1", engine, driver=NEW)
    heard(site, 600, "gpu-2", engine)
    waiting = step(site, 600)  # and gpu-3 was not heard
    assert (stages(waiting)["gpu-2"], "used by gpu-3" in (waiting.reason or "")) == ("held", True)

    with site.bench.registry.catalogue.edit(actor="anna") as draft:
        draft.fleet.retire("gpu-3", later(610))

    after = step(site, 620)
    assert stages(after) == {"gpu-1": "done", "gpu-2": "released", "gpu-3": "reverted"}
    assert after.reason is None


def test_a_wave_with_a_node_that_never_reported_is_not_safe(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    enrolled(site.bench.registry.catalogue, "gpu-9")
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    assert begin_enrolled(site, engine, 1).safe_at is None


def test_a_verdict_that_is_lost_is_no_safety_and_the_audit_log_says_so(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    variant = variants_of(tmp_path)[0]
    site.judge(engine, variant, Result.PASS, ON_R595)
    assert begin_enrolled(site, engine, 1).safe_at == NOON
    site.judge(engine, variant, Result.FAIL, ON_R595)
    assert step(site, 9).safe_at is None
    with site.bench.registry.catalogue.read() as view:
        actions = [one.action for one in view.audit_entries()]
    assert [one for one in actions if "safe" in one] == ["wave unsafe"]


# -- what happened already ----------------------------------------------------------------------


def test_a_driver_that_is_there_already_makes_the_same_plan_for_that_node(
    site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    registry, places = site.bench.registry, [str(fleet)]
    assert react(registry, read_nodes(registry, [fleet]), now=NOON, places=places).waves == ()

    report(fleet, "gpu-2", engine, driver=NEW)
    found = react(registry, read_nodes(registry, [fleet]), now=NOON, places=places)
    assert list(found.unqualified) == ["gpu-2"]
    assert "not-judged-there" in found.unqualified["gpu-2"][0]
    (name,) = found.waves
    wave = service.read_wave(registry, name)
    assert (stages(wave), wave.origin) == ({"gpu-2": "upgraded"}, "found")
    assert [one.action for one in wave.work] == ["revalidate"]

    again = react(registry, read_nodes(registry, [fleet]), now=later(1), places=places)
    assert (again.waves, list(again.unqualified)) == ((), ["gpu-2"])
    report(fleet, "gpu-3", engine, driver=NEW)
    more = react(registry, read_nodes(registry, [fleet]), now=later(2), places=places)
    assert more.waves == (name,)
    assert set(stages(service.read_wave(registry, name))) == {"gpu-2", "gpu-3"}

    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    after = service.go_on(registry, name, now=later(300)).after
    assert (after.phase, after.safe_at) == (Phase.DONE, later(300))
    assert after.safe_at is not None
    assert after.safe_at - after.announced_at == timedelta(seconds=300)
    assert react(registry, read_nodes(registry, [fleet]), now=later(400), places=places).waves == ()


def test_a_node_of_a_wave_that_goes_on_is_left_to_that_wave(
    site: Site, engine: Engine, fleet: Path
) -> None:
    begin(site, fleet)
    report(fleet, "gpu-2", engine, driver=NEW)
    found = react(
        site.bench.registry, read_nodes(site.bench.registry, [fleet]), now=NOON, places=[str(fleet)]
    )
    assert (found.waves, list(found.unqualified)) == ((), ["gpu-2"])
    assert stages(step(site, 5))["gpu-2"] == "upgraded"


def found_waves(site: Site) -> dict[str, dict[str, str]]:
    """Returns the stages in each wave that was found and goes on, by its driver."""
    with site.bench.registry.catalogue.read() as view:
        return {one.driver: stages(one) for one in view.waves.open(Origin.FOUND)}


def test_a_second_driver_that_nobody_announced_is_a_wave_too(
    site: Site, engine: Engine, fleet: Path
) -> None:
    registry, places = site.bench.registry, [str(fleet)]
    for driver in (NEW, NEWER):
        report(fleet, "gpu-2", engine, driver=driver)
        react(registry, read_nodes(registry, [fleet]), now=NOON, places=places)
    assert found_waves(site) == {NEW: {"gpu-2": "upgraded"}, NEWER: {"gpu-2": "upgraded"}}
    (left,) = follow(registry, now=later(1), places=places)
    assert (left.driver, left.phase, stages(left)) == (NEW, Phase.DONE, {"gpu-2": "reverted"})
    assert found_waves(site) == {NEWER: {"gpu-2": "upgraded"}}


def test_a_node_of_a_planned_wave_that_gets_another_driver_is_found(
    site: Site, engine: Engine, fleet: Path
) -> None:
    begin(site, fleet)
    report(fleet, "gpu-2", engine, driver=NEWER)
    found = react(
        site.bench.registry, read_nodes(site.bench.registry, [fleet]), now=NOON, places=[str(fleet)]
    )
    assert list(found.unqualified) == ["gpu-2"]
    assert found_waves(site) == {NEWER: {"gpu-2": "upgraded"}}
    assert stages(step(site, 5))["gpu-2"] == "held"


def test_what_was_found_stands_in_the_way_of_no_wave(
    site: Site, engine: Engine, fleet: Path
) -> None:
    report(fleet, "gpu-2", engine, driver=NEW)
    registry = site.bench.registry
    react(registry, read_nodes(registry, [fleet]), now=NOON, places=[str(fleet)])
    assert stages(begin(site, fleet))["gpu-2"] == "upgraded"
    assert found_waves(site) == {NEW: {"gpu-2": "upgraded"}}


def test_a_change_that_an_aborted_wave_saw_is_found_afterwards(
    site: Site, engine: Engine, fleet: Path
) -> None:
    begin(site, fleet)
    report(fleet, "gpu-2", engine, driver=NEW)
    step(site, 5)
    registry = site.bench.registry
    service.abort(registry, "w", "no", now=later(6))
    react(registry, read_nodes(registry, [fleet]), now=later(7), places=[str(fleet)])
    assert found_waves(site) == {NEW: {"gpu-2": "upgraded"}}


def test_a_wave_that_was_found_ends_with_the_last_node_that_is_enrolled(
    site: Site, engine: Engine
) -> None:
    registry = site.bench.registry
    heard(site, 0, "gpu-1", engine, driver=NEW)
    react(registry, read_nodes(registry, (), now=NOON), now=NOON)
    assert found_waves(site) == {NEW: {"gpu-1": "upgraded"}}
    with registry.catalogue.edit() as draft:
        draft.fleet.retire("gpu-1", later(1))
    (ended,) = follow(registry, now=later(2))
    assert ended.ended
