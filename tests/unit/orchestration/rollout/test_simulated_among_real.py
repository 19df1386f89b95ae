"""A wave of real nodes has nothing to do with simulated ones, whatever their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.errors import MissingError
from enginekeeper.orchestration.rollout import service
from enginekeeper.orchestration.rollout.service import Announcement
from enginekeeper.orchestration.waves import DriverChange
from registry.types import Engine
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import join
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk
from tests.factories.waves import NEW, NO_SOAK, NOON, later, stages

WAVE = Announcement(change=DriverChange.to(NEW, on=NOON.date()), places=(), name="w", terms=NO_SOAK)


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


def heard(site: Site, at: float, name: str, engine: Engine, *, simulated: bool = False) -> None:
    said = inventory(name, [on_disk(engine.digest)], simulated=simulated)
    join(site.bench.registry.catalogue, said, now=later(at))


def test_a_lone_simulated_node_is_left_out_of_a_wave_of_real_ones(
    site: Site, engine: Engine
) -> None:
    for name in ("gpu-1", "gpu-2", "sim-1"):
        heard(site, 0, name, engine, simulated=name == "sim-1")
    begun = service.start(site.bench.registry, WAVE, now=NOON)
    assert sorted(stages(begun.after)) == ["gpu-1", "gpu-2"]
    assert (begun.after.simulated, begun.going.plan.left_out) == (False, ("sim-1",))
    with pytest.raises(MissingError, match="not among the nodes"):
        service.draft(site.bench.registry, replace(WAVE, qualify=("sim-1",)), now=NOON)


def test_a_node_that_is_enrolled_anew_as_simulated_is_not_the_node_of_the_wave(
    site: Site, engine: Engine
) -> None:
    registry = site.bench.registry
    for name in ("gpu-1", "gpu-2"):
        heard(site, 0, name, engine)
    service.start(registry, WAVE, now=NOON)
    with registry.catalogue.edit(actor="anna") as draft:
        draft.fleet.retire("gpu-2", later(1))
        draft.fleet.enroll("gpu-2", "0" * 64, simulated=True, labels={}, at=later(2))
    heard(site, 3, "gpu-2", engine, simulated=True)
    after = service.go_on(registry, "w", now=later(60)).after
    found = {one.name: (str(one.stage), one.reasons) for one in after.nodes}
    assert found["gpu-2"] == ("reverted", ("left the fleet",))
