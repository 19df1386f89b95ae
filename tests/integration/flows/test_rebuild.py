"""The rebuild flow: judges what exists, builds what does not, and goes on where it was."""

from __future__ import annotations

from typing import Any

import pytest

from registry.types import EngineFilter
from tests.fakes.servers import PrefectServer
from tests.fakes.worlds import VARIANT, World
from tests.integration.flows.conftest import MakeWorld
from tests.integration.flows.test_interruptions import STAGES, STATUS

pytestmark = pytest.mark.xdist_group("prefect")


def unjudged(world: World) -> str:
    """Builds an engine up to its verdict, and returns its id."""
    world.build(at=STAGES["judge"], signal="SIGKILL", group=True)
    registry = world.registry()
    assert registry is not None
    (engine,) = registry.engines(EngineFilter())
    assert registry.verdicts(engine.digest) == []
    return str(engine.digest)


def test_an_engine_without_a_verdict_is_judged_and_not_built(make_world: MakeWorld) -> None:
    world = make_world("again")
    engine = unjudged(world)
    made = {name for name in world.products() if "/engine/" in name}
    assert len(made) == 1

    ended = world.rebuild("--engine", engine)

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["ending"], outcome["result"]) == (0, "judged", "pass")
    assert outcome["engine"] == engine
    assert {name for name in world.products() if "/engine/" in name} == made
    again = world.rebuild("--engine", engine).outcomes
    assert [one["ending"] for one in again] == ["reused"]
    world.check()


def test_a_change_of_weights_builds_a_variant_once_and_then_reuses_it(
    make_world: MakeWorld,
) -> None:
    world = make_world("weights")
    unjudged(world)
    for ending in ("judged", "reused"):
        (outcome,) = world.rebuild("--weights", "tiny").outcomes
        assert (outcome["variant"], outcome["ending"]) == (VARIANT, ending)
    registry = world.registry()
    assert registry is not None
    assert len(registry.engines(EngineFilter())) == 1


@pytest.mark.parametrize("number", STATUS)
def test_an_interrupted_rebuild_goes_on(make_world: MakeWorld, number: str) -> None:
    world = make_world(number)
    engine = unjudged(world)

    ended = world.rebuild("--engine", engine, at=STAGES["judge"], signal=number, group=True)

    assert ended.status == STATUS[number]
    world.check()
    assert world.rebuild("--engine", engine).outcomes[0]["result"] == "pass"


def runs(server: PrefectServer) -> list[Any]:
    """Returns the newest flow runs, the newest first."""
    found: list[Any] = server.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 2})
    return found


def test_on_a_server_each_build_is_a_run_below_the_rebuild(
    prefect_server: PrefectServer, server_world: World
) -> None:
    engine = unjudged(server_world)

    ended = server_world.rebuild("--engine", engine)

    assert (ended.status, ended.outcomes[0]["result"]) == (0, "pass")
    build, rebuild = runs(prefect_server)
    assert (build["state_name"], rebuild["state_name"]) == ("Completed", "Completed")
    assert rebuild["parameters"]["order"]["builds"][0]["engines"] == [engine]
    assert build["parent_task_run_id"] is not None


@pytest.mark.usefixtures("worker")
def test_a_worker_judges_again_what_a_deployment_is_asked_for(server_world: World) -> None:
    engine = unjudged(server_world)

    ended = server_world.rebuild("--engine", engine, "--deployment", "enginekeeper-rebuild/local")

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["ending"], outcome["result"]) == (0, "judged", "pass"), ended.err
    server_world.check()
