"""A Prefect server that does not answer is one clear error, soon."""

from __future__ import annotations

import importlib.util
import time

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.orchestration import prefect_api
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.start import run_build

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("prefect") is None, reason="the flows extra is not installed"
    ),
    pytest.mark.filterwarnings("default"),  # Prefect's own imports warn
]

NOBODY = "http://127.0.0.1:9/api"


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    prefect_api.prepare_prefect()
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415

    started = time.monotonic()
    with (
        temporary_settings({PREFECT_API_URL: NOBODY}),
        pytest.raises(UnavailableError, match="cannot be reached") as caught,
    ):
        prefect_api.check_server(NOBODY)

    assert caught.value.where == NOBODY
    assert time.monotonic() - started < 20


def test_a_server_that_goes_away_is_said() -> None:
    import httpx  # noqa: PLC0415 - Prefect's client

    with (
        pytest.raises(UnavailableError, match="cannot be reached") as caught,
        prefect_api.translated(),
    ):
        raise httpx.ConnectError("connection refused")

    assert caught.value.actual == "ConnectError: connection refused"


def test_a_deployment_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_api, "server_url", lambda: None)

    with pytest.raises(UnavailableError, match="none is named") as caught:
        run_build(BuildOrder("spec.yaml"), deployment="enginekeeper-build/local")

    assert caught.value.where == "deployment enginekeeper-build/local"
