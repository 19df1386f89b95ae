"""Says how far large files are on their way into and out of the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_progress = logging.getLogger("enginekeeper.progress")
_EVERY = 5.0  # seconds: often enough to see that it moves
_QUIET = 64 * 1024 * 1024  # bytes: smaller files are over before anybody wonders


class TransferLog:
    """Hears of the store's transfers; logs a line every few seconds and one at the end of each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._file: tuple[str, int] | None = None
        self._done = 0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Takes how many bytes of a file are done."""
        now = self._clock()
        if (name, total) != self._file or done <= self._done:
            self._file = (name, total)
            self._began = self._said = now
            self._first = done  # what an earlier run left is not to its credit
        self._done = done
        ended = done == total
        if total < _QUIET or not (ended or now - self._said >= _EVERY):
            return
        self._said = now
        rate = (done - self._first) / 1e6 / max(now - self._began, 1e-3)
        _progress.info(
            "%s: %.0f %% of %.1f GB, %.0f MB/s", name, 100 * done / total, total / 1e9, rate
        )
