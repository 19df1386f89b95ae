"""Listens for the driver's errors (Xids) in a process of its own, between the rounds of an agent.

Rules:

- NVML tells of an error only to whoever listens when it comes, so the listener stays, and with it
  the driver is in use: who unloads it or resets a GPU stops the agent first. It is asked for by
  name (`agent run --xids`) for that reason;
- what was heard is known until the agent ends, the last error of each GPU: a GPU that was reset
  begins anew with its agent;
- a listener that ended (the driver went, NVML failed) is started again in the next round, and so
  is one that heard an older driver than there is now.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import NoReturn

from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.interface import XidEvent

Listen = Callable[[Callable[[XidEvent], None], Callable[[], bool]], None]
_PIECE = 64 * 1024


class XidWatch:
    """Has somebody listen, and knows the last error of each GPU."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._heard: dict[str, XidEvent] = {}
        self._child: int | None = None
        self._reader = -1
        self._rest = b""
        self._driver: str | None = None

    def __call__(self, driver: str | None) -> Mapping[str, XidEvent]:
        """Returns the last error of each GPU that was told, or why one tells none, by UUID."""
        self._collect()
        if self._child is not None and driver != self._driver:
            self.close()
        if self._child is None and driver is not None:
            self._driver = driver
            self._start()
        return dict(self._heard)

    def close(self) -> None:
        """Ends the listener; what was heard stays known."""
        if self._child is None:
            return
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        os.close(self._reader)
        self._child, self._rest = None, b""

    def _start(self) -> None:
        reader, writer = os.pipe()
        parent, child = os.getpid(), os.fork()
        if child == 0:
            os.close(reader)
            _hear(self._listen, writer, parent)
        os.close(writer)
        os.set_blocking(reader, False)
        self._child, self._reader = child, reader

    def _collect(self) -> None:
        """Takes what the listener wrote so far; one that ended is remembered as such."""
        if self._child is None:
            return
        while True:
            try:
                piece = os.read(self._reader, _PIECE)
            except BlockingIOError:
                return
            if not piece:  # it has ended
                os.waitpid(self._child, 0)
                os.close(self._reader)
                self._child, self._rest = None, b""
                return
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._take(XidEvent(**json.loads(line)))

    def _take(self, one: XidEvent) -> None:
        known = self._heard.get(one.uuid)
        if one.xid is not None or known is None or known.xid is None:
            self._heard[one.uuid] = one


def _hear(listen: Listen, writer: int, parent: int) -> NoReturn:
    """Writes what is heard into a pipe, in the child, until the agent is gone."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent ends it

        def tell(one: XidEvent) -> None:
            os.write(writer, json.dumps(asdict(one)).encode() + b"\n")

        listen(tell, lambda: os.getppid() == parent)
        code = 0
    except UnavailableError:
        pass  # whoever looks at the GPUs says what is wrong with NVML
    finally:
        os._exit(code)
