"""Runs the application until a signal ends it."""

from __future__ import annotations

import importlib.util
import signal
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

_GRACE_SECONDS = 20
_WAITING = 2048
"""Connections that the kernel holds while the server is busy: a fleet reconnects at once."""


def serve(app: Starlette, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM, then answers what was asked and writes what was heard."""
    config = uvicorn.Config(
        app, host=host, port=port, access_log=False, log_config=None, backlog=_WAITING,
        timeout_graceful_shutdown=_GRACE_SECONDS, server_header=False, date_header=False,
        proxy_headers=False, http=_protocol(), ws="none",
    )  # fmt: skip
    # uvicorn raises the signal again once all is done, for whoever handled it before
    before = {one: signal.signal(one, _ended) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _protocol() -> Any:  # noqa: ANN401 - a name or a class of uvicorn's
    """Returns what parses: C where it is installed, as with the extra `serve`, or Python."""
    if importlib.util.find_spec("httptools") is None:
        return "h11"
    from enginekeeper.web.protocol import LimitedProtocol  # noqa: PLC0415 - needs httptools

    return LimitedProtocol


def _ended(_number: int, _frame: FrameType | None) -> None:
    """Ends nothing: uvicorn has ended already."""
