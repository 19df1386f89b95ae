"""Progress on stderr: what is being done, and how long it has been going on."""

from __future__ import annotations

import logging
import sys
import time


class _Elapsed(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(message)s")
        self._start = time.monotonic()

    def format(self, record: logging.LogRecord) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        return f"[{minutes:2d}:{seconds:02d}] {super().format(record)}"


def show_progress(*, verbose: bool = False) -> None:
    """Sends the application's progress to stderr with the time since the start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Elapsed())
    logger = logging.getLogger("enginekeeper.progress")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
