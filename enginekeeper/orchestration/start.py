"""Starts flows: in this process, or as a deployment on a Prefect server.

In this process the run is told to the server that the environment names, or to one of its own.
An empty plan never imports Prefect: there is nothing to orchestrate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginekeeper.errors import UnavailableError
from enginekeeper.orchestration import prefect_api
from enginekeeper.orchestration.bench import Bench, open_bench
from enginekeeper.orchestration.order import BuildOrder, Order, RebuildOrder, WaveOrder
from enginekeeper.orchestration.outcome import Outcome
from enginekeeper.orchestration.pipeline import Work, conclude
from enginekeeper.orchestration.planning import plan_order
from enginekeeper.orchestration.remote import run_deployed

_FLOWS = (Path(__file__).parents[1] / "_flows", Path(__file__).parents[2] / "flows")


def run_build(order: BuildOrder, *, deployment: str | None = None) -> list[Outcome]:
    """Builds a spec in this process, or by a deployment, which plans where it runs."""
    if deployment is not None:
        return run_deployed(deployment, order)
    bench = open_bench()
    work = Work(order, plan_order(bench, order))
    return _run_flow(bench, "build", order) if work.todo else conclude(bench, work)


def run_rebuild(order: RebuildOrder, *, deployment: str | None = None) -> list[Outcome]:
    """Carries out builds one after the other, in this process or by a deployment."""
    if deployment is not None:
        return run_deployed(deployment, order)
    bench = open_bench()
    works = [Work(one, plan_order(bench, one)) for one in order.builds]
    if any(work.todo for work in works):
        return _run_flow(bench, "rebuild", order)
    return [outcome for work in works for outcome in conclude(bench, work)]


def run_wave(order: WaveOrder, *, deployment: str | None = None) -> list[Outcome]:
    """Lets a wave go on until it has ended or stopped; what it asks for is in the registry."""
    if deployment is not None:
        return run_deployed(deployment, order)
    return _run_flow(open_bench(), "driver_wave", order)


def _run_flow(bench: Bench, name: str, order: Order) -> list[Outcome]:
    prefect_api.prepare_prefect()
    url = prefect_api.server_url()
    if url is None:
        prefect_api.start_server(bench.shop.logs / "prefect-server.log")
    else:
        prefect_api.check_server(url)
    with prefect_api.translated():
        outcomes: list[Outcome] = load_flow(name)(order)
    return outcomes


def load_flow(name: str) -> Any:  # noqa: ANN401 - a Prefect flow; the type needs the import
    """Loads a flow by the name of its script; raises UnavailableError without Prefect."""
    prefect_api.prepare_prefect()
    from prefect.flows import load_flow_from_entrypoint  # noqa: PLC0415 - a second to import

    script = next((folder / f"{name}.py" for folder in _FLOWS if folder.is_dir()), None)
    if script is None or not script.is_file():
        raise UnavailableError(f"the flow {name} is not installed", where=str(script))
    # a placeholder made from the syntax tree would hide import errors
    return load_flow_from_entrypoint(f"{script}:{name}", use_placeholder_flow=False)
