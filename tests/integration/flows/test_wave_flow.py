"""The wave flow: steps until the wave has ended, and goes on where a killed one was."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginekeeper.orchestration.order import BuildOrder, RebuildOrder
from enginekeeper.orchestration.remote import submit_deployed
from registry.types import Engine, Result
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk, write_inventory
from tests.factories.waves import NEW, OLD
from tests.fakes.servers import PrefectServer
from tests.fakes.worlds import World, Zygote, eventually

pytestmark = pytest.mark.xdist_group("prefect")
ON_R595 = replace(H100, driver=NEW, cuda_driver="13.2")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "world", host=None)


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def world(
    tmp_path: Path, site: Site, prefect_zygote: Zygote, prefect_server: PrefectServer
) -> World:
    """A world on the site's registry whose flows are told to the Prefect server."""
    assert site.bench.settings.home == tmp_path / "world" / "home"
    return World(tmp_path / "world", prefect_zygote, environment=prefect_server.environment)


def report(place: Path, name: str, *engines: Engine, driver: str) -> None:
    taken = datetime.now(UTC).isoformat()  # a document counts for a day
    found = inventory(name, [on_disk(one.digest) for one in engines], taken_at=taken)
    assert found.driver is not None
    api = {OLD: "13.0", NEW: "13.2"}[driver]
    write_inventory(place, replace(found, driver=replace(found.driver, version=driver, cuda=api)))


def test_a_wave_runs_to_its_end_as_a_flow(
    world: World, site: Site, engine: Engine, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    fleet = tmp_path / "fleet"
    report(fleet, "gpu-1", engine, driver=OLD)
    report(fleet, "spare", driver=OLD)
    begun = world.run(
        "wave", "start", "--driver", NEW, "--inventory", str(fleet), "--name", "w", "--soak", "0",
        "--qualify", "spare",
    )  # fmt: skip
    assert begun.status == 7, begun.err
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    for name in ("gpu-1", "spare"):
        report(fleet, name, *([engine] if name == "gpu-1" else []), driver=NEW)

    ended = world.run("wave", "run", "w", "--interval", "1")

    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["phase"] == "done"
    (run,) = prefect_server.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert (run["state_name"], run["parameters"]["order"]["wave"]) == ("Completed", "w")
    tasks = prefect_server.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert eventually(lambda: {one["state_name"] for one in tasks} == {"Completed"})


def test_a_wave_that_stops_ends_its_flow_and_says_why(
    world: World, site: Site, engine: Engine, tmp_path: Path
) -> None:
    fleet = tmp_path / "fleet"
    report(fleet, "gpu-1", engine, driver=OLD)
    begun = ("wave", "start", "--driver", NEW, "--inventory", str(fleet), "--name", "w")
    assert world.run(*begun).status == 7
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, ON_R595)

    ended = world.run("wave", "run", "w", "--interval", "1")

    assert ended.status == 5, ended.err
    assert json.loads(ended.out)["reason"].startswith(f"failed under driver {NEW}")


def test_a_wave_that_asks_twice_gets_the_same_run(
    world: World, prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.root.is_dir()
    prefect_server.command(
        "work-pool", "create", "enginekeeper", "--type", "process", "--overwrite"
    )
    prefect_server.command("--no-prompt", "deploy", "--all")
    for name, value in prefect_server.environment.items():
        monkeypatch.setenv(name, value)
    order = RebuildOrder((BuildOrder(str(tmp_path / "spec.yaml"), only=("v",)),))

    first, second, other = (
        submit_deployed("enginekeeper-rebuild/local", order, once=name)
        for name in ("w/abc/1", "w/abc/1", "w/abc/2")
    )

    assert first == second != other
