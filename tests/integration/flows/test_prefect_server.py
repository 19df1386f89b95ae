"""The build flow against a real Prefect server: in this process, and as a deployment."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from enginekeeper.orchestration.remote import OUTCOMES
from tests.fakes.servers import PrefectServer
from tests.fakes.worlds import VARIANT, Ended, World, Zygote, eventually, wait_for
from tests.integration.flows.test_interruptions import STAGES, STATUS, without_times

pytestmark = pytest.mark.xdist_group("prefect")

TASKS = {
    "fetch_source", "make_reference", "publish_reference", "make_checkpoint", "audit_checkpoint",
    "make_engine", "publish_engine", "score_engine", "judge_engine",
}  # fmt: skip
DEPLOYMENT = "enginekeeper-build/local"


def newest_run(server: PrefectServer) -> Any:  # noqa: ANN401 - the server's JSON
    return server.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]


def of_run(server: PrefectServer, kind: str, run: str) -> Any:  # noqa: ANN401 - as above
    """Returns a flow run's task runs or artifacts."""
    return server.ask(f"{kind}/filter", {"flow_runs": {"id": {"any_": [run]}}})


def tasks(server: PrefectServer, run: str) -> dict[str, str]:
    rows = of_run(server, "task_runs", run)
    return {row["name"].rpartition("-")[0]: row["state_name"] for row in rows}


def told(server: PrefectServer, run: str) -> list[str]:
    logs = server.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    return [log["message"] for log in logs if log["name"] == "enginekeeper.progress"]


def check_visible(server: PrefectServer, ended: Ended) -> None:
    """Checks that the server shows the newest build: state, order, tasks, outcomes, progress."""
    run = newest_run(server)
    assert run["state_name"] == "Completed"
    assert run["parameters"]["order"]["path"].endswith("spec.yaml")
    assert eventually(lambda: tasks(server, run["id"]) == dict.fromkeys(TASKS, "Completed"))
    (artifact,) = of_run(server, "artifacts", run["id"])
    shown = [{k: v for k, v in one.items() if k != "exit_code"} for one in ended.outcomes]
    assert (artifact["key"], json.loads(artifact["data"])) == (OUTCOMES, shown)
    assert eventually(lambda: f"{VARIANT}: judged pass" in told(server, run["id"]))


@pytest.fixture(scope="module")
def built_here(
    prefect_zygote: Zygote, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Ended:
    """A build in its own process, told to the server."""
    place = tmp_path_factory.mktemp("here")
    ended = World(place, prefect_zygote, environment=prefect_server.environment).build()
    assert ended.status == 0, ended.err
    check_visible(prefect_server, ended)
    return ended


@pytest.mark.usefixtures("worker")
def test_a_deployment_is_visible_and_ends_as_a_build_of_this_process(
    prefect_server: PrefectServer, server_world: World, built_here: Ended
) -> None:
    ended = server_world.build("--deployment", DEPLOYMENT)

    assert ended.status == 0, ended.err
    check_visible(prefect_server, ended)
    assert f"{VARIANT}: judged pass" in ended.err  # its progress is shown here
    assert without_times(ended.outcomes) == without_times(built_here.outcomes)
    server_world.check()


def interrupt(server: PrefectServer, world: World, stage: str, number: str) -> None:
    ended = world.build(at=STAGES[stage], signal=number, group=True)

    assert ended.status == STATUS[number], f"{number} in {stage}: {ended.err}"
    assert "Traceback" not in ended.err, f"{number} in {stage}"
    world.check()
    # nobody is left to tell the server of a kill -9
    shown = "Running" if number == "SIGKILL" else "Crashed"
    assert newest_run(server)["state_name"] == shown, f"{number} in {stage}"


def test_an_interrupted_build_is_crashed_on_the_server_and_goes_on(
    prefect_server: PrefectServer, server_world: World
) -> None:
    interrupt(prefect_server, server_world, "quantize", "SIGINT")
    interrupt(prefect_server, server_world, "publish", "SIGTERM")
    interrupt(prefect_server, server_world, "judge", "SIGKILL")

    assert server_world.build().outcomes[0]["result"] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
def test_so_it_is_in_every_stage(
    prefect_server: PrefectServer, server_world: World, number: str
) -> None:
    for stage in STAGES:
        interrupt(prefect_server, server_world, stage, number)

    assert server_world.build().outcomes[0]["result"] == "pass"


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_who_stops_waiting_stops_no_run_and_cancelling_it_stops_its_steps(
    prefect_server: PrefectServer, server_world: World
) -> None:
    with server_world.held(), server_world.start("--deployment", DEPLOYMENT) as waiting:
        wait_for(waiting, "source: tiny ...")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(30) == 130
        run = newest_run(prefect_server)
        assert run["state_name"] == "Running"
        assert eventually(lambda: bool(server_world.working()))

        prefect_server.command("flow-run", "cancel", run["id"])

        assert eventually(lambda: newest_run(prefect_server)["state_name"] == "Cancelled")
        assert eventually(lambda: not server_world.working())
    server_world.check()
    assert server_world.build("--deployment", DEPLOYMENT).status == 0
