"""The application: the routes of agents, and the place where those of a console go.

Starlette and uvicorn, because Prefect brings both: nothing is added to what is installed, and the
console's routes need a router and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from enginekeeper.web.agents import Agents
from enginekeeper.web.messages import refused
from registry.errors import DiagnosedError


def create_app(agents: Agents, console: Sequence[BaseRoute] = ()) -> Starlette:
    """Returns the application; it writes everything it heard before it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        beside = asyncio.create_task(agents.run())
        try:
            yield
        finally:
            beside.cancel()
            with suppress(asyncio.CancelledError):
                await beside
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
