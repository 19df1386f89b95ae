"""What agents ask: the routes below /v1, and what runs beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enginekeeper.fleet.ingest import Ingest, Speaker
from enginekeeper.fleet.refusals import UnknownTokenError
from enginekeeper.fleet.wire import (
    DESIRED_PATH,
    HEARTBEAT_PATH,
    INVENTORY_PATH,
    MAX_HEARTBEAT_BYTES,
    MAX_INVENTORY_BYTES,
    Desired,
    DesiredEngine,
    HeartbeatAnswer,
    InventoryAnswer,
)
from enginekeeper.orchestration.desired import DesiredStates, desired_digest
from enginekeeper.web.messages import answer, bearer, body_of
from enginekeeper.web.reacting import DriverWatch
from enginekeeper.web.writing import InventoryWriter
from registry.errors import DiagnosedError, RegistryError

_LOG = logging.getLogger(__name__)
_BEATS_SECONDS = 1.0
"""How often heartbeats are written, and how old what others changed can be."""
_LOOK_SECONDS = 1.0
"""How often nodes that have another driver are looked at."""
_SMALL = 64 * 1024
"""Bytes of an inventory that is looked through at once; a larger one would make others wait."""
_RENEW_SECONDS = 0.25
"""How often an unknown token makes the server look whether it was given out just now."""


@dataclass
class Agents:
    """Everything between the agents' requests and the catalogue."""

    ingest: Ingest
    desired: DesiredStates
    period: int = 60
    """Seconds between an agent's heartbeats."""
    watch: DriverWatch | None = None
    """What looks at nodes that have another driver; None: nobody does."""
    _refreshed: float = 0.0
    _writer: InventoryWriter = field(init=False)
    _refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._writer = InventoryWriter(self.ingest)

    def routes(self) -> list[Route]:
        """Returns the routes of agents."""
        return [
            Route(HEARTBEAT_PATH, self.heartbeat, methods=["POST"]),
            Route(INVENTORY_PATH, self.inventory, methods=["PUT"]),
            Route(DESIRED_PATH, self.desired_state, methods=["GET"]),
        ]

    async def heartbeat(self, request: Request) -> Response:
        """Takes a heartbeat."""
        token, _ = await self._known(request)
        speaker, wish = self.ingest.heartbeat(token, await body_of(request, MAX_HEARTBEAT_BYTES))
        engines = await self._engines(speaker)
        return answer(HeartbeatAnswer(wish, desired_digest(engines), self.period).to_bytes())

    async def inventory(self, request: Request) -> Response:
        """Takes an inventory, and answers when it is committed."""
        token, _ = await self._known(request)
        body = await body_of(request, MAX_INVENTORY_BYTES)
        if len(body) <= _SMALL:
            offered = self.ingest.offer(token, body)
        else:
            offered = await asyncio.to_thread(self.ingest.offer, token, body)
        recorded = self.ingest.settle(offered, await self._writer.write(offered))
        if recorded and self.watch is not None:
            self.watch.noticed(offered)
        return answer(InventoryAnswer(offered.report.state, recorded).to_bytes())

    async def desired_state(self, request: Request) -> Response:
        """Says what should run on the node whose token it is."""
        _, speaker = await self._known(request)
        return answer(Desired(speaker.name, await self._engines(speaker)).to_bytes())

    async def run(self) -> None:
        """Does what is done beside answering, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_and_refresh())
            if self.watch is not None:  # apart: a look at a large fleet keeps no heartbeat waiting
                group.create_task(self._look_on(self.watch))

    async def _write_and_refresh(self) -> None:
        while True:
            await asyncio.sleep(_BEATS_SECONDS)
            await self._unless_down(self.write)
            await self._unless_down(self._refresh)

    async def _look_on(self, watch: DriverWatch) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look(watch.look)

    @staticmethod
    async def _look(look: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(look)
        except DiagnosedError as error:
            said = " ".join(str(error).split())
            _LOG.error("nodes are not held against their drivers: %s", said)

    async def finish(self) -> None:
        """Writes everything that was heard, and looks at what changed: the server's last act."""
        await self._writer.finish()
        await self._unless_down(self.write)
        if self.watch is not None:
            await self._look(self.watch.look_at_changes)

    async def write(self) -> None:
        """Writes the heartbeats that were heard since; what cannot be written is kept."""
        beats = self.ingest.heard()
        try:
            await asyncio.to_thread(self.ingest.write, beats)
        except RegistryError:
            self.ingest.keep(beats)
            raise

    async def _known(self, request: Request) -> tuple[str, Speaker]:
        token, came = bearer(request), monotonic()
        try:
            return token, self.ingest.authenticated(token)
        except UnknownTokenError:
            await self._refreshed_since(came)
            return token, self.ingest.authenticated(token)

    async def _refreshed_since(self, moment: float) -> None:
        """Waits until the catalogue was looked at after a moment; all that wait share one look."""
        async with self._refreshing:
            if self._refreshed < moment:
                await asyncio.sleep(self._refreshed + _RENEW_SECONDS - monotonic())
                await self._refresh()

    async def _refresh(self) -> None:
        self._refreshed = monotonic()
        if await asyncio.to_thread(self.ingest.refresh):
            self.desired.forget()

    async def _engines(self, speaker: Speaker) -> tuple[DesiredEngine, ...]:
        """Returns what should run on a node; nothing is said of one that has not reported yet."""
        if speaker.profile is None:
            return ()
        found = self.desired.cached(speaker.profile)
        if found is None:
            found = await asyncio.to_thread(self.desired.work_out, speaker.profile)
        return found

    @staticmethod
    async def _unless_down(act: Callable[[], Awaitable[None]]) -> None:
        """Does something that the next time makes up for if the catalogue does not answer."""
        try:
            await act()
        except RegistryError as error:
            _LOG.error("the catalogue does not take it: %s", " ".join(str(error).split()))
