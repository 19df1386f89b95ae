"""A node that reports another driver: looked at once, kept while nobody can look."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.fleet.wire import InventoryMessage
from enginekeeper.orchestration.desired import DesiredStates
from enginekeeper.web.agents import Agents
from enginekeeper.web.reacting import DriverWatch
from registry.errors import StoreUnavailableError
from registry.service import Registry
from registry.types import Engine, Result
from registry.waves.types import Phase, Wave
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk
from tests.factories.waves import NEW, OLD, stages

TOKEN = make_token("gpu-1")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    found = publish_for_gpu(site, variants_of(tmp_path)[0], H100)
    with site.bench.registry.catalogue.edit() as draft:
        digest, now = token_digest(TOKEN), datetime.now(UTC)
        draft.fleet.enroll("gpu-1", digest, simulated=False, labels={}, at=now)
    return found


def reports(site: Site, watch: DriverWatch, engine: Engine, driver: str, sequence: int) -> None:
    ingest = Ingest(site.bench.registry.catalogue)
    ingest.load()
    found = inventory("gpu-1", [on_disk(engine.digest)])
    assert found.driver is not None
    said = replace(found, driver=replace(found.driver, version=driver))
    message = InventoryMessage("gpu-1", said.boot_id, sequence, said.as_dict())
    offered = ingest.offer(TOKEN, message.to_bytes())
    ingest.settle(offered, ingest.take([offered])[0])
    watch.noticed(offered)


def waves(site: Site) -> list[Wave]:
    with site.bench.registry.catalogue.read() as view:
        return view.waves.open()


def test_another_driver_is_a_wave_and_the_same_again_is_none(site: Site, engine: Engine) -> None:
    watch = begins(site, [0.0])
    reports(site, watch, engine, OLD, 1)
    watch.look()
    assert waves(site) == []
    reports(site, watch, engine, NEW, 2)
    watch.look()
    (found,) = waves(site)
    assert (found.driver, stages(found)) == (NEW, {"gpu-1": "upgraded"})
    reports(site, watch, engine, NEW, 3)
    watch.look()
    assert [one.name for one in waves(site)] == [found.name]


def test_what_cannot_be_looked_at_now_is_looked_at_later(site: Site, engine: Engine) -> None:
    down = True

    def registry() -> Registry:
        if down:
            raise StoreUnavailableError("the catalogue does not answer")
        return site.bench.registry

    watch = DriverWatch(registry)
    reports(site, watch, engine, NEW, 1)
    with pytest.raises(StoreUnavailableError):
        watch.look()
    down = False
    watch.look()
    assert len(waves(site)) == 1


def begins(site: Site, seconds: list[float]) -> DriverWatch:
    """Returns what a service begins with; the last of `seconds` is the time."""
    return DriverWatch(lambda: site.bench.registry, clock=lambda: seconds[-1])


def test_a_change_that_was_recorded_and_not_looked_at_is_found_by_the_next_service(
    site: Site, engine: Engine
) -> None:
    reports(site, begins(site, [0.0]), engine, NEW, 1)
    begins(site, [0.0]).look()
    (found,) = waves(site)
    assert (found.driver, stages(found)) == (NEW, {"gpu-1": "upgraded"})


def test_the_last_act_of_a_service_is_to_look_at_what_changed(site: Site, engine: Engine) -> None:
    watch = begins(site, [0.0])
    reports(site, watch, engine, NEW, 1)
    registry = site.bench.registry
    agents = Agents(Ingest(registry.catalogue), DesiredStates(lambda: registry), watch=watch)
    asyncio.run(agents.finish())
    assert [one.driver for one in waves(site)] == [NEW]


def test_a_service_that_runs_without_a_node_or_a_change_records_nothing(site: Site) -> None:
    begins(site, [0.0]).look()
    assert waves(site) == []


def test_the_whole_fleet_is_looked_at_again_and_what_was_said_is_not_said_again(
    site: Site, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = [0.0]
    watch = begins(site, seconds)
    watch.look()
    reports(site, begins(site, [0.0]), engine, NEW, 1)  # somewhere else, as by `wave abort`
    seconds.append(599.0)
    watch.look()
    assert waves(site) == []
    for time in (600.0, 1201.0):
        seconds.append(time)
        watch.look()
    assert len(waves(site)) == 1
    said = [one.getMessage() for one in caplog.records if "gpu-1" in one.getMessage()]
    assert said == ["engines are not qualified for the driver of gpu-1"]


def test_a_fleet_that_could_not_be_looked_at_is_looked_at_a_minute_later(
    site: Site, engine: Engine
) -> None:
    reports(site, begins(site, [0.0]), engine, NEW, 1)
    seconds, down = [0.0], [True]

    def registry() -> Registry:
        if down:
            raise StoreUnavailableError("the catalogue does not answer")
        return site.bench.registry

    watch = DriverWatch(registry, clock=lambda: seconds[-1])
    with pytest.raises(StoreUnavailableError):
        watch.look()
    down.clear()
    seconds.append(60.0)
    watch.look()
    assert len(waves(site)) == 1


def test_waves_that_were_found_go_on_by_themselves(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    seconds = [0.0]
    watch = begins(site, seconds)
    reports(site, watch, engine, NEW, 1)
    watch.look()
    (found,) = waves(site)
    environment = replace(H100, driver=NEW, cuda_driver="13.2")
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, environment)
    seconds.append(61.0)
    watch.look()
    with site.bench.registry.catalogue.read() as view:
        after = view.waves.wave(found.name)
    assert (after.phase, stages(after), after.safe_at is None) == (
        Phase.DONE, {"gpu-1": "done"}, False,
    )  # fmt: skip


def test_what_takes_long_comes_later(site: Site, engine: Engine) -> None:
    slow, looked = iter(range(0, 10_000, 50)), list[int]()

    def registry() -> Registry:
        looked.append(len(looked))
        return site.bench.registry

    reports(site, begins(site, [0.0]), engine, NEW, 1)
    watch = DriverWatch(registry, clock=lambda: float(next(slow)))  # each look takes 50 s
    for _ in range(8):
        watch.look()
    # both at once; then a step, of 50 s, each 1000 s, and not each minute
    assert len(looked) == 2


def test_a_look_that_took_long_is_followed_by_a_pause(site: Site, engine: Engine) -> None:
    seconds, looked = [0.0], list[float]()

    def registry() -> Registry:
        looked.append(seconds[-1])
        seconds.append(seconds[-1] + 0.5)
        return site.bench.registry

    watch = DriverWatch(registry, clock=lambda: seconds[-1])
    watch.look()  # at the whole fleet, and at the waves
    looked.clear()
    for sequence, (driver, at) in enumerate(((NEW, 2.0), (OLD, 6.0), (NEW, 8.0)), start=1):
        reports(site, watch, engine, driver, sequence)
        seconds.append(at)
        watch.look()
    assert looked == [2.0, 8.0]
    watch.look_at_changes()  # the last act of a service waits for nothing
    assert looked == [2.0, 8.0]


def test_a_look_that_failed_is_followed_by_a_pause_too(site: Site, engine: Engine) -> None:
    seconds, looked = [0.0], list[float]()

    def registry() -> Registry:
        looked.append(seconds[-1])
        seconds.append(seconds[-1] + 0.5)
        raise StoreUnavailableError("the catalogue does not answer")

    watch = DriverWatch(registry, clock=lambda: seconds[-1])
    for _ in range(2):  # at the whole fleet, then at the waves
        with pytest.raises(StoreUnavailableError):
            watch.look()
    looked.clear()
    reports(site, watch, engine, NEW, 1)
    with pytest.raises(StoreUnavailableError):
        watch.look()
    watch.look()
    assert looked == [1.0]


def test_no_pause_is_longer_than_a_period(site: Site, engine: Engine) -> None:
    seconds, looked = [0.0], list[float]()

    def registry() -> Registry:
        looked.append(seconds[-1])
        seconds.append(seconds[-1] + 20.0)
        return site.bench.registry

    watch = DriverWatch(registry, clock=lambda: seconds[-1])
    reports(site, watch, engine, NEW, 1)
    watch.look()  # and at the whole fleet, and at the waves
    looked.clear()
    reports(site, watch, engine, OLD, 2)
    for at in (79.0, 80.0):
        seconds.append(at)
        watch.look()
    assert looked == [80.0]
