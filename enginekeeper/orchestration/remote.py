"""The build flow as a deployment: asked for over Prefect's API, run by a worker somewhere.

What came of a run is left on the server as an artifact, whoever runs it: the outcomes as a table,
or the error that ended it. So it is read without the worker's files and without unpickling what
another process wrote, and a person sees it in Prefect's own interface.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from enginekeeper.errors import EngineKeeperError, MissingError, UnavailableError
from enginekeeper.orchestration import prefect_api
from enginekeeper.orchestration.order import Order
from enginekeeper.orchestration.outcome import Outcome
from registry.disks import full_disk_said
from registry.errors import DiagnosedError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

progress = logging.getLogger("enginekeeper.progress")

OUTCOMES, ERROR = "enginekeeper-outcomes", "enginekeeper-error"
"""Keys of the artifacts; Prefect's interface lists them by these names."""

_POLL = 1.0  # seconds


def reported(run: Callable[[], list[Outcome]]) -> list[Outcome]:
    """Runs a build and leaves its progress and its outcomes, or its error, on the server."""
    with _progress_sent():
        return left(run)


def left(run: Callable[[], list[Outcome]]) -> list[Outcome]:
    """Runs builds that tell their progress themselves, and leaves what came of them all."""
    try:
        with full_disk_said():
            outcomes = run()
    except DiagnosedError as error:
        _leave(ERROR, [error.as_dict()])
        raise
    _leave(OUTCOMES, [outcome.as_dict() for outcome in outcomes])
    return outcomes


def _leave(key: str, rows: list[dict[str, Any]]) -> None:
    from prefect.artifacts import create_table_artifact  # noqa: PLC0415 - a second to import

    try:
        prefect_api.check_server(str(prefect_api.server_url()))
    except UnavailableError as error:  # Prefect itself tries again without a word
        progress.info("%s; trying again for two minutes ...", str(error).splitlines()[0])
    create_table_artifact(table=rows, key=key)


@contextmanager
def _progress_sent() -> Iterator[None]:
    """Sends what the block tells as its progress to the server, as messages of its flow run."""
    from prefect.logging.handlers import APILogHandler  # noqa: PLC0415

    handler = APILogHandler(logging.INFO)
    progress.addHandler(handler)
    if not progress.isEnabledFor(logging.INFO):  # a worker shows nobody any
        progress.setLevel(logging.INFO)
    try:
        yield
        handler.flush()  # who waits for the run's end looks for no message after it
    finally:
        progress.removeHandler(handler)


def run_deployed(name: str, order: Order) -> list[Outcome]:
    """Runs a deployment of a flow to its end; raises the error that ended it there.

    An interruption ends the waiting, not the run: it belongs to the server.
    """
    with _client(name) as client:
        run = _submit(client, name, order)
        return _result(client, _follow(client, run))


def submit_deployed(name: str, order: Order, *, once: str) -> str:
    """Asks a deployment for a run and returns its id; asked again by the same name, the same run.

    Nobody waits: what the run made is in the registry.
    """
    with _client(name) as client:
        return str(_submit(client, name, order, once=once).id)


@contextmanager
def _client(name: str) -> Iterator[SyncPrefectClient]:
    """Opens Prefect's client; raises UnavailableError where no server is named, or none answers."""
    prefect_api.prepare_prefect()
    url = prefect_api.server_url()
    if url is None:
        raise UnavailableError(
            "a deployment is run by a Prefect server, and none is named",
            where=f"deployment {name}",
            remedy="set PREFECT_API_URL, or build in this process: leave out --deployment",
        )
    prefect_api.check_server(url)
    from prefect.client.orchestration import get_client  # noqa: PLC0415

    with prefect_api.translated(), get_client(sync_client=True) as client:
        yield client


def _submit(
    client: SyncPrefectClient,
    name: str,
    order: Order,
    *,
    once: str | None = None,
) -> FlowRun:
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415

    try:
        deployment = client.read_deployment_by_name(name)
    except (ObjectNotFound, ValueError) as error:
        raise MissingError(
            "the Prefect server has no such deployment",
            where=prefect_api.server_url(),
            actual=name,
            expected="FLOW/DEPLOYMENT, such as enginekeeper-build/local",
            remedy="prefect deployment ls; prefect deploy --all",
        ) from error
    run = client.create_flow_run_from_deployment(
        deployment.id, parameters={"order": asdict(order.from_anywhere())}, idempotency_key=once
    )
    progress.info("%s: flow run %s (%s), work pool %s", name, run.name, run.id,
                  deployment.work_pool_name)  # fmt: skip
    return run


def _follow(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """Waits for a flow run's end; says its states, and what it says itself."""
    said, shown = None, 0
    while True:
        found = client.read_flow_run(run.id)
        if found.state_name != said:
            said = found.state_name
            progress.info("flow run %s: %s", run.name, said)
        shown += _show(client, run.id, shown)
        if found.state is not None and found.state.is_final():
            return found
        time.sleep(_POLL)


def _show(client: SyncPrefectClient, run: UUID, after: int) -> int:
    """Shows what a run tells of its progress; returns how many of its messages were looked at."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId  # noqa: PLC0415
    from prefect.client.schemas.sorting import LogSort  # noqa: PLC0415

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
    logs = client.read_logs(wanted, limit=200, offset=after, sort=LogSort.TIMESTAMP_ASC)
    for log in logs:
        if log.name == progress.name:
            progress.info("%s", log.message)
    return len(logs)


def _result(client: SyncPrefectClient, run: FlowRun) -> list[Outcome]:
    if (rows := _artifact(client, run.id, OUTCOMES)) is not None:
        return [Outcome.from_dict(row) for row in rows]
    if (rows := _artifact(client, run.id, ERROR)) is not None:
        raise DiagnosedError.from_dict(rows[0])
    state = run.state
    kind = EngineKeeperError if state is not None and state.is_failed() else UnavailableError
    raise kind(
        "the flow run ended without a result",
        where=f"flow run {run.name}",
        actual=None if state is None else f"{state.name}: {state.message}",
        remedy=f"prefect flow-run logs {run.id}; finished stages are kept, so run it again",
    )


def _artifact(client: SyncPrefectClient, run: UUID, key: str) -> list[dict[str, Any]] | None:
    from prefect.client.schemas.filters import (  # noqa: PLC0415
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        ArtifactFilterKey,
    )

    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[key])
    )
    found = client.read_artifacts(artifact_filter=wanted)
    rows: list[dict[str, Any]] | None = json.loads(str(found[0].data)) if found else None
    return rows
