"""A driver whose CUDA is not in the tables: the nodes say it, or somebody does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.orchestration.fleet_reading import read_nodes
from enginekeeper.orchestration.rollout import service
from enginekeeper.orchestration.rollout.found import follow, react
from registry.types import Engine
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk, write_inventory
from tests.factories.waves import NOON, later, stages


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def fleet(tmp_path: Path, engine: Engine) -> Path:
    return write_inventory(tmp_path / "fleet", inventory("gpu-1", [on_disk(engine.digest)])).parent


def odd(engine: Engine, tmp_path: Path, cuda: str) -> Path:
    found = inventory("odd", [on_disk(engine.digest)])
    assert found.driver is not None
    driver = replace(found.driver, version="700.10.01", cuda=cuda)
    return write_inventory(tmp_path, replace(found, driver=driver))


def test_the_cuda_of_a_branch_that_is_not_known_is_what_the_nodes_say(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    registry, place = site.bench.registry, odd(engine, tmp_path, "14.1")
    found = react(registry, read_nodes(registry, [place]), now=NOON, places=[str(place)])
    assert (found.unknown, list(found.unqualified)) == ({}, ["odd"])
    (name,) = found.waves
    assert service.read_wave(registry, name).cuda_driver == "14.1"
    assert follow(registry, now=later(1), places=[str(place)]) == ()


def test_nodes_that_say_different_cudas_of_one_driver_are_a_wave_each(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    registry = site.bench.registry
    nodes = [
        replace(node, name=cuda)
        for cuda in ("14.1", "14.2")
        for node in read_nodes(registry, [odd(engine, tmp_path, cuda)])
    ]
    found = react(registry, nodes, now=NOON, places=[str(tmp_path)])
    waves = [service.read_wave(registry, name) for name in found.waves]
    assert {one.cuda_driver: stages(one) for one in waves} == {
        "14.1": {"14.1": "upgraded"}, "14.2": {"14.2": "upgraded"},
    }  # fmt: skip


@pytest.mark.parametrize("cuda", ["14", "x"])
def test_a_driver_whose_cuda_nobody_can_tell_is_told_as_such(
    site: Site, engine: Engine, tmp_path: Path, cuda: str
) -> None:
    place = odd(engine, tmp_path, cuda)
    nodes = read_nodes(site.bench.registry, [place])
    assert "cuda driver" in react(site.bench.registry, nodes, now=NOON).unknown["odd"]
    told = react(site.bench.registry, nodes, now=NOON, cuda_driver="14.0", places=[str(place)])
    assert (told.unknown, list(told.unqualified)) == ({}, ["odd"])


def test_the_cuda_that_is_named_is_not_that_of_a_driver_which_is_known(
    site: Site, fleet: Path
) -> None:
    told = react(
        site.bench.registry, read_nodes(site.bench.registry, [fleet]), now=NOON, cuda_driver="14.0"
    )
    assert (told.unqualified, told.waves) == ({}, ())
