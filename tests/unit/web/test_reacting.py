"""A node that reports another driver: looked at once, kept while nobody can look."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.fleet.wire import InventoryMessage
from enginekeeper.web.reacting import DriverWatch
from registry.errors import StoreUnavailableError
from registry.service import Registry
from registry.types import Engine
from registry.waves.types import Wave
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.fleet import join
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
    watch = DriverWatch(lambda: site.bench.registry)
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


def heard(site: Site, at: datetime) -> None:
    """Lets another node be heard, so that the service was there at that time."""
    join(site.bench.registry.catalogue, inventory("gpu-2"), now=at)


@pytest.mark.parametrize(("minutes", "looked"), [(2, 0), (0.5, 1)])
def test_a_service_that_begins_knows_what_was_looked_at_before(
    site: Site, engine: Engine, minutes: float, looked: int
) -> None:
    reports(site, DriverWatch(lambda: site.bench.registry), engine, NEW, 1)
    heard(site, datetime.now(UTC) + timedelta(minutes=minutes))
    watch = DriverWatch(lambda: site.bench.registry)
    watch.learn()
    reports(site, watch, engine, NEW, 2)
    watch.look()
    assert len(waves(site)) == looked


def test_a_driver_that_changed_while_no_service_was_there_is_looked_at(
    site: Site, engine: Engine
) -> None:
    reports(site, DriverWatch(lambda: site.bench.registry), engine, OLD, 1)
    heard(site, datetime.now(UTC) + timedelta(minutes=2))
    watch = DriverWatch(lambda: site.bench.registry)
    watch.learn()
    reports(site, watch, engine, NEW, 2)
    watch.look()
    assert len(waves(site)) == 1
