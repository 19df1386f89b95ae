"""Every moment at which publishing changes something, in a process that is killed at one of them.

A moment is a change to a file (open for writing, link, rename, mkdir, remove), a request to S3
before it is sent and after it was answered, a statement to the database, and a commit before and
after. The process is a fork, and dies by SIGKILL: nothing of it gets to clean up.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from registry.blobs.s3 import S3BlobStore
from registry.service import Registry

_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Moments:
    """Counts moments, and acts at the chosen one."""

    chosen: int
    act: Callable[[str], None]
    files_only: bool = False
    passed: list[str] = field(default_factory=list)

    def reach(self, name: str) -> None:
        """Notes a moment; acts if it is the chosen one."""
        self.passed.append(name)
        if len(self.passed) == self.chosen:
            self.act(name)

    def listen(self, registry: Registry, root: str) -> None:
        """Listens to everything that a registry does in this process, for the rest of its life."""
        if self.files_only:
            sys.addaudithook(lambda kind, arguments: self._audit(kind, arguments, root))
            return
        event.listen(Engine, "before_cursor_execute", self._statement)
        event.listen(Engine, "commit", lambda _: self.reach("before commit"))
        event.listen(Session, "after_commit", lambda _: self.reach("after commit"))
        if isinstance(registry.store, S3BlobStore):
            events: Any = registry.store._root.client.meta.events
            events.register("before-send.s3", self._asks)
            events.register("after-call.s3", self._answered)
        else:
            sys.addaudithook(lambda kind, arguments: self._audit(kind, arguments, root))

    def _asks(self, request: Any, **_: object) -> None:  # noqa: ANN401 - botocore's
        name = str(request.url).partition("?")[0].rpartition("/")[2]
        self.reach(f"before {request.method} {name[:16]}")

    def _answered(self, model: Any, **_: object) -> None:  # noqa: ANN401 - botocore's
        self.reach(f"after {model.name}")

    def _statement(self, _c: object, _k: object, statement: str, *_: object) -> None:
        self.reach(f"before {' '.join(statement.split()[:3])}")

    def _audit(self, kind: str, arguments: tuple[Any, ...], root: str) -> None:
        if kind == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & _WRITES
        else:
            changes = kind in _CHANGES
        path = arguments[0] if changes else None
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(root):
            self.reach(f"{kind} {Path(os.fsdecode(path)).name}")


def in_a_process(work: Callable[[], None]) -> int:
    """Runs work in a fork; returns how it ended, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the outermost frame of a process
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(_name: str) -> None:
    """Ends this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
