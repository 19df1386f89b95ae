"""The same work on many things in several processes, where that is safe.

Rules:

- processes are forked: that takes milliseconds, and all that was read is there;
- of a process with threads of its own only the one that forks would go on, and what locks the
  others hold would stay locked: such a process works alone (OpenBLAS ends its threads before a
  fork, and is not counted);
- children leave ^C to their parent, and end with it, at the latest after the thing they are at;
- what they return comes through a pipe whose other end only their parent has.
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

_MOST = 8
"""Processes; each may need some hundred MB where it is all damage."""

_FORK = multiprocessing.get_context("fork")


def side_by_side(
    work: Callable[[Item], Answer], items: Sequence[Item], processes: int | None = None
) -> list[Answer]:
    """Returns what `work` gives for each item, in their order.

    An application's error is raised as if it had happened here. Raises UnavailableError where a
    process was killed, and RuntimeError where one failed otherwise, as it has said itself.
    """
    count = _how_many(len(items)) if processes is None else processes
    shares = [items[first::count] for first in range(count)]
    children: list[_Child] = []
    try:
        here = [shares[0], *_started(work, shares[1:], children)]
        done = [[work(item) for item in share] for share in here]
        done[1:1] = [child.answers() for child in children]
    finally:
        for child in children:
            child.end()
    return [done[index % count][index // count] for index in range(len(items))]


def _how_many(items: int) -> int:
    if threading.active_count() > 1 or multiprocessing.current_process().daemon:
        return 1
    return max(min(len(os.sched_getaffinity(0)), items // _ITEMS_EACH, _MOST), 1)


def _started(
    work: Callable[[Item], Answer], shares: Sequence[Sequence[Item]], children: list[_Child]
) -> list[Sequence[Item]]:
    """Starts a child for each share; returns those for which the system has no process left."""
    for number, share in enumerate(shares):
        try:
            children.append(_Child.start(work, share, [child.answer for child in children]))
        except OSError:
            return list(shares[number:])
    return []


@dataclass(frozen=True)
class _Child:
    """A process that does a share of the work."""

    process: ForkProcess
    answer: Connection

    @classmethod
    def start(
        cls, work: Callable[[Item], Answer], share: Sequence[Item], others: list[Connection]
    ) -> _Child:
        """Forks; the child closes the ends of pipes that are its parent's."""
        here, there = _FORK.Pipe(duplex=False)
        arguments = (work, share, there, [here, *others], os.getpid())
        process = _FORK.Process(target=_answer, args=arguments, daemon=True)
        try:
            process.start()
        except OSError:
            here.close()
            raise
        finally:
            there.close()  # or its end would not be seen
        return cls(process, here)

    def answers(self) -> list[Any]:
        """Waits for the answers; raises the error that came instead."""
        try:
            found: list[Any] | dict[str, Any] = self.answer.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise self._ended() from error
        if isinstance(found, dict):
            raise EngineKeeperError.from_dict(found)
        return found

    def _ended(self) -> Exception:
        code = self.process.exitcode
        if code is not None and code >= 0:
            return RuntimeError("a process that did a share of the work failed, as it has said")
        return UnavailableError(
            "a process that did a share of the work was killed",
            actual=f"signal {-(code or 0)}",
            remedy="try again; 9 is the kernel's for want of memory, 7 a file that was cut short",
        )

    def end(self) -> None:
        """Ends the process, at work or not."""
        self.answer.close()
        self.process.kill()
        self.process.join()


def _answer(
    work: Callable[[Item], Answer],
    share: Sequence[Item],
    answer: Connection,
    of_parent: Sequence[Connection],
    parent: int,
) -> None:
    """Does a share of the work, in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for connection in of_parent:
        connection.close()
    found: list[Answer] = []
    problem: dict[str, Any] | None = None
    try:
        for item in share:
            if os.getppid() != parent:
                return
            found.append(work(item))
    except EngineKeeperError as error:
        problem = error.as_dict()
    try:
        answer.send(problem or found)
    except BrokenPipeError:
        return  # the parent has ended
