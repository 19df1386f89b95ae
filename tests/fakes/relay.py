"""A relay in front of a server on this host that counts the bytes that clients send to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

_PIECE = 1024 * 1024


class Relay:
    """Passes connections on as they are, and counts what goes up."""

    def __init__(self, upstream: str) -> None:
        target = urlsplit(upstream)
        self._target = (str(target.hostname), int(target.port or 80))
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._server]
        self._threads: list[threading.Thread] = []
        self._counting = threading.Lock()
        self.sent = 0
        self._start(self._serve)

    @property
    def endpoint(self) -> str:
        """Where clients connect instead of to the server."""
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def close(self) -> None:
        """Cuts every connection and takes no more."""
        for one in self._open:
            _hang_up(one)
        for thread in self._threads:
            thread.join(10)
        for one in self._open:
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                self._start(self._pass, client, server, self._count)
                self._start(self._pass, server, client, _ignore)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pass(
        self, source: socket.socket, target: socket.socket, count: Callable[[int], None]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                count(len(piece))
                target.sendall(piece)
        _hang_up(source)
        _hang_up(target)

    def _count(self, size: int) -> None:
        with self._counting:
            self.sent += size


@contextlib.contextmanager
def relay(upstream: str) -> Iterator[Relay]:
    """Runs a relay in front of a server."""
    with contextlib.closing(Relay(upstream)) as running:
        yield running


def _hang_up(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def _ignore(_: int) -> None:
    """What comes down is not counted."""
