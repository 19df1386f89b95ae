"""Runs the application until a signal ends it."""

from __future__ import annotations

import signal
from types import FrameType

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
        proxy_headers=False,
    )  # fmt: skip
    # uvicorn raises the signal again once all is done, for whoever handled it before
    before = {one: signal.signal(one, _ended) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(_number: int, _frame: FrameType | None) -> None:
    """Ends nothing: uvicorn has ended already."""
