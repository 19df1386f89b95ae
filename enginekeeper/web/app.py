"""The application: the routes of agents, and the place where those of a console go.

Starlette and uvicorn, because Prefect brings both: nothing is added to what is installed, and the
console's routes need a router and no more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from enginekeeper.web.agents import Agents
from enginekeeper.web.messages import refused
from registry.errors import DiagnosedError

_LOG = logging.getLogger(__name__)


def _end_with(beside: asyncio.Task[None]) -> None:
    """Ends the service where what writes the heartbeats came to its end by itself: a defect.

    It would answer on, and nothing would be written.
    """
    if not beside.cancelled() and (error := beside.exception()) is not None:
        _LOG.critical("heartbeats cannot be written any more", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


def create_app(agents: Agents, console: Sequence[BaseRoute] = ()) -> Starlette:
    """Returns the application; it writes everything it heard before it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        beside = asyncio.create_task(agents.run())
        beside.add_done_callback(_end_with)
        try:
            yield
        finally:
            beside.cancel()
            await asyncio.wait([beside])
            await agents.finish()

    return Starlette(
        routes=[*agents.routes(), *console],
        lifespan=lifespan,
        exception_handlers={
            DiagnosedError: refused,
            HTTPException: refused,
            Exception: refused,
        },
    )
