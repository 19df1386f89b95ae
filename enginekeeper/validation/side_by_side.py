"""The same work on many things in several processes, where that is safe.

Rules:

- processes are forked: that takes milliseconds, and all that was read is there;
- of a process with threads of its own only the one that forks would go on, and what locks the
  others hold would stay locked: such a process works alone;
- children leave ^C to their parent, and end with it, at the latest after the thing they are at;
- what they return comes through a pipe that nobody else has.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

from enginekeeper.errors import EngineKeeperError, UnavailableError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_ITEMS_EACH = 4
"""Things that a process has to do at least: layers of a small model take milliseconds each."""

_MOST = 16
"""Processes; more wait for the same memory."""

_FORK = multiprocessing.get_context("fork")


def side_by_side(
    work: Callable[[Item], Answer], items: Sequence[Item], processes: int | None = None
) -> list[Answer]:
    """Returns what `work` gives for each item, in their order.

    An application's error is raised as if it had happened here. Raises UnavailableError where a
    process ended without an answer.
    """
    count = _how_many(len(items)) if processes is None else processes
    shares = [items[first::count] for first in range(count)]
    children = [_Child.start(work, share) for share in shares[1:]]
    try:
        done = [[work(item) for item in shares[0]], *(child.answers() for child in children)]
    finally:
        for child in children:
            child.end()
    return [done[index % count][index // count] for index in range(len(items))]


def _how_many(items: int) -> int:
    if threading.active_count() > 1:
        return 1
    return max(min(len(os.sched_getaffinity(0)), items // _ITEMS_EACH, _MOST), 1)


@dataclass(frozen=True)
class _Child:
    """A process that does a share of the work."""

    process: ForkProcess
    answer: Connection

    @classmethod
    def start(cls, work: Callable[[Item], Answer], share: Sequence[Item]) -> _Child:
        here, there = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_answer, args=(work, share, there, os.getpid()), daemon=True)
        process.start()
        there.close()  # or its end would not be seen
        return cls(process, here)

    def answers(self) -> list[Any]:
        """Waits for the answers; raises the error that came instead."""
        try:
            found: list[Any] | EngineKeeperError = self.answer.recv()
        except EOFError as error:
            self.process.join()
            raise UnavailableError(
                "a process that did a share of the work ended without an answer",
                actual=f"exit code {self.process.exitcode}",
                expected="0",
                remedy="try again; -9 is the kernel's for want of memory, -7 a file cut short",
            ) from error
        if isinstance(found, EngineKeeperError):
            raise found
        return found

    def end(self) -> None:
        """Ends the process, at work or not."""
        self.answer.close()
        self.process.kill()
        self.process.join()


def _answer(
    work: Callable[[Item], Answer], share: Sequence[Item], answer: Connection, parent: int
) -> None:
    """Does a share of the work, in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    found: list[Answer] = []
    try:
        for item in share:
            if os.getppid() != parent:
                return
            found.append(work(item))
    except EngineKeeperError as error:
        answer.send(error)
        return
    answer.send(found)
