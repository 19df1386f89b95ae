"""Prefect's API for a run: the server that the environment names, or one for this process alone.

Prefect would start one by itself. That one is in the terminal's process group, so Ctrl-C ends it
before the run can tell it of the interruption (measured: 76 s of retries, then a traceback), and
it outlives a process that is killed. The one started here

- leads a session of its own: Ctrl-C does not reach it;
- watches its standard input, a pipe that closes when this process ends, however it ends;
- writes into a log file what Prefect's servers say.
"""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginekeeper.errors import UnavailableError

progress = logging.getLogger("enginekeeper.progress")

_PATIENCE = 300.0  # seconds until a server of our own answers: 4 to 17 on a quiet machine, 90 seen
_ANSWER = 10.0  # seconds that a server which is running may take to say that it is
_FAREWELL = 5.0  # seconds in which a server of our own writes down what it has been told

_running: list[subprocess.Popen[bytes]] = []
"""Kept for as long as this process lives: their pipes close with them."""

# Prefect's own defaults send usage data, and log each failure with a traceback that the flow
# reports in its own words; what the user has set stays set.
_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}


def prepare_prefect() -> None:
    """Sets what Prefect reads when it is imported; raises UnavailableError when it is not here."""
    for variable, value in _DEFAULTS.items():
        os.environ.setdefault(variable, value)
    try:
        import prefect.settings  # noqa: F401, PLC0415 - a second to import
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "Prefect is not installed", remedy="pip install 'enginekeeper[flows]'"
        ) from error


def server_url() -> str | None:
    """Returns the address of the Prefect server that the environment or a profile names."""
    from prefect.settings import get_current_settings  # noqa: PLC0415

    return get_current_settings().api.url


def check_server(url: str) -> None:
    """Raises UnavailableError when the server at an address does not answer at once."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.settings import (  # noqa: PLC0415
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    at_once = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: _ANSWER}
    with temporary_settings(at_once), get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise _unreachable(url, error)


@contextmanager
def translated() -> Iterator[None]:
    """Turns a Prefect server that stops answering into an UnavailableError."""
    import httpx  # noqa: PLC0415 - Prefect's client

    try:
        yield
    except httpx.HTTPError as error:
        raise _unreachable(server_url() or "the Prefect server", error) from error


def start_server(log: Path) -> None:
    """Starts a server that ends with this process, and makes it the one Prefect talks to."""
    progress.info("starting a Prefect server for this run ...")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
        process = _launch(listening, log)
    _running.append(process)
    _wait(process, port, log)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    # A proxy of this host is for other hosts.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415

    refresh_global_settings_context()


def _launch(listening: socket.socket, log: Path) -> subprocess.Popen[bytes]:
    """Starts the server on a socket that is open already: whoever asks early waits."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", __name__, str(listening.fileno())],
                stdin=subprocess.PIPE,  # kept open, never written to
                stdout=output,
                stderr=output,
                pass_fds=[listening.fileno()],
                env={**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"},
                start_new_session=True,
            )
    except OSError as error:
        raise UnavailableError(
            f"a Prefect server cannot be started: {error.strerror}",
            where=str(error.filename or log),
        ) from error


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER)
        try:
            connection.request("GET", "/api/health")
            if connection.getresponse().status == http.client.OK:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
        finally:
            connection.close()
    process.kill()
    raise UnavailableError(
        "the Prefect server of this run did not start",
        where=str(log),
        actual=f"exit status {process.wait()}",
        expected=f"an answer within {_PATIENCE:.0f} s",
        remedy=f"read {log}, or set PREFECT_API_URL to a server that runs already",
    )


def _unreachable(url: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        "the Prefect server cannot be reached",
        where=url,
        actual=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
        remedy="start it (prefect server start), or correct or unset PREFECT_API_URL; "
        "finished stages are kept",
    )


def _serve(descriptor: int) -> None:
    """Is the server's process: serves until whoever started it is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn  # noqa: PLC0415 - Prefect's server runs on it

    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_FAREWELL)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
