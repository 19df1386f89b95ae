"""Commits inventories together: those of a moment, and who waits while others are written.

A unit of work costs as much as twenty inventories in it, so that the first of a moment waits for
others: an agent waits that long for nothing, and a fleet that reports at once is taken faster.
An inventory is answered after its commit. One of a node that is in the portion already waits for
the next: a portion holds each node once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from enginekeeper.fleet.ingest import Ingest, Offered
from registry.errors import RegistryError, StoreUnavailableError
from registry.fleet.types import TakenReport

_TOGETHER = 200
"""Inventories that one unit of work takes."""
_GATHER_SECONDS, _LOOKS = 0.02, 4
"""How long a portion that is not full waits for others at most, and how often it looks whether any
came: none does where all agents wait for an answer, and then the wait would be for nothing."""
_Waiting = tuple[Offered, asyncio.Future[TakenReport]]


@dataclass
class InventoryWriter:
    """Takes inventories of many requests to the catalogue, one portion at a time."""

    ingest: Ingest
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _writing: asyncio.Task[None] | None = None

    async def write(self, offered: Offered) -> TakenReport:
        """Returns what became of an inventory, after its commit; raises as the catalogue does."""
        future: asyncio.Future[TakenReport] = asyncio.get_running_loop().create_future()
        self._waiting.append((offered, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await future

    async def finish(self) -> None:
        """Waits until nothing waits any more."""
        while self._writing is not None:
            await asyncio.shield(self._writing)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                await self._write(self._portion())
        finally:
            self._writing = None

    async def _gather(self) -> None:
        """Waits while others come, until there is a full portion or it was long enough."""
        for _ in range(_LOOKS):
            before = len(self._waiting)
            if before >= _TOGETHER:
                return
            await asyncio.sleep(_GATHER_SECONDS / _LOOKS)
            if len(self._waiting) == before:
                return

    async def _write(self, portion: list[_Waiting]) -> None:
        try:
            taken = await asyncio.to_thread(self.ingest.take, [one for one, _ in portion])
        except RegistryError as error:
            if len(portion) > 1 and not isinstance(error, StoreUnavailableError):
                for one in portion:  # whichever it is must not keep the others out
                    await self._write([one])
                return
            for _, future in portion:
                if not future.done():  # its request may be gone
                    future.set_exception(error)
            return
        for (_, future), what in zip(portion, taken, strict=True):
            if not future.done():
                future.set_result(what)

    def _portion(self) -> list[_Waiting]:
        portion: list[_Waiting] = []
        later: list[_Waiting] = []
        nodes: set[int] = set()
        while self._waiting and len(portion) < _TOGETHER:
            one = self._waiting.popleft()
            if one[0].speaker.id in nodes:
                later.append(one)
                continue
            nodes.add(one[0].speaker.id)
            portion.append(one)
        self._waiting.extendleft(reversed(later))
        return portion
