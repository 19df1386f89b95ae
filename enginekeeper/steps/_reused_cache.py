"""An engine whose cache is not new: what a server with prefix caching gives a request.

A session's cache is a piece of memory that outlives a request. Here another request has been there
before: it shares the beginning with the one that is asked, or nothing at all. Every slot that is
not overwritten still holds what the other one left.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import torch
from _twin_arm import left_padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _engine import Engine, Session

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]


class ReusedCache:
    """Reads prompts into memory in which other requests were, a batch at a time."""

    def __init__(self, engine: Engine, strangers: Sequence[int]) -> None:
        self._engine = engine
        self._strangers = list(strangers)
        """Tokens of the other requests, taken from the front as often as they are needed."""

    def prefix_kept(self, prompts: Prompts) -> list[Tensor]:
        """Returns states of prompts whose first half another request had computed."""
        session, before, kept = self._after_another(prompts, shared=True)
        return self._resumed(session, prompts, before, kept)

    def evicted(self, prompts: Prompts) -> list[Tensor]:
        """Returns states of prompts read into memory that is full of another request."""
        session, before, _ = self._after_another(prompts, shared=False)
        return self._resumed(session, prompts, before, 0)

    def brought_back(self, prompts: Prompts) -> list[Tensor]:
        """Returns states of prompts whose first half was moved away, overwritten and put back."""
        session, before, kept = self._after_another(prompts, shared=True)
        away = [(keys.clone(), values.clone()) for keys, values in session.caches]
        self._read(session, self._foreign(prompts, 0))
        for cache, saved in zip(session.caches, away, strict=True):
            for now, then in zip(cache, saved, strict=True):
                now[:, :, :kept] = then[:, :, :kept]
        return self._resumed(session, prompts, before, kept)

    def _after_another(self, prompts: Prompts, *, shared: bool) -> tuple[Session, Tensor, int]:
        """Returns a session that another batch has used, its states, and how much is shared."""
        lengths = [len(ids) for ids in prompts]
        kept = max(lengths) // 2 if shared else 0
        session = self._engine.start(lengths, max(lengths))
        return session, self._read(session, self._foreign(prompts, kept)), kept

    def _foreign(self, prompts: Prompts, kept: int) -> Tensor:
        """Returns a batch like that of the prompts, strangers from slot `kept` on."""
        batch, _ = left_padded(prompts)
        count = batch.shape[1] - kept
        for row, ids in enumerate(batch):
            first = (7 * row) % len(self._strangers)
            ids[kept:] = torch.tensor([*islice(cycle(self._strangers), first, first + count)])
        return batch

    def _read(self, session: Session, batch: Tensor) -> Tensor:
        session.used = 0
        return self._engine.advance(session, batch)

    def _resumed(
        self, session: Session, prompts: Prompts, before: Tensor, kept: int
    ) -> list[Tensor]:
        session.used = kept
        batch, pads = left_padded(prompts)
        after = self._engine.advance(session, batch[:, kept:])
        states = torch.cat((before[:, :kept], after), dim=1)
        return [row[pad:] for row, pad in zip(states, pads.tolist(), strict=True)]
