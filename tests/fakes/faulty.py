"""A server before an S3 server on this host that answers wrongly where a drill says so.

It speaks HTTP and passes requests on as they are, signature and all. A fault is picked by method
and name, and strikes each request once (what passes by itself) or every time (what lasts).
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ERRORS = {
    "500": (500, "InternalError"), "503": (503, "SlowDown"),
    "409": (409, "ConditionalRequestConflict"), "412": (412, "PreconditionFailed"),
}  # fmt: skip
KINDS = (*_ERRORS, "silent", "hung up", "answer lost", "cut short", "bit flipped in the answer",
         "bit flipped in the request")  # fmt: skip
SILENT = 3.0
"""Seconds that a silent server says nothing; clients are to have less patience."""
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "expect"})


@dataclass
class Fault:
    """What goes wrong, and with which requests."""

    kind: str
    hits: Callable[[str, str], bool] = lambda _method, _path: True
    """Says of a method and a path whether it is meant."""
    lasting: bool = False
    struck: list[str] = field(default_factory=list)

    def strikes(self, method: str, path: str) -> bool:
        """Says whether this request is struck, and notes it."""
        name = f"{method} {path}"
        if not self.hits(method, path) or (name in self.struck and not self.lasting):
            return False
        self.struck.append(name)
        return True


class FaultyServer:
    """Stands before a server; `fault` may be set at any time."""

    def __init__(self, upstream: str) -> None:
        self.fault: Fault | None = None
        target = urlsplit(upstream)
        where = (str(target.hostname), int(target.port or 80))
        handler = type("Handler", (_Handler,), {"upstream": where, "faulty": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._deciding = threading.Lock()
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where clients connect instead of to the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def decide(self, method: str, path: str) -> str | None:
        """Returns the kind of fault that strikes a request, if one does."""
        with self._deciding:
            fault = self.fault
            return fault.kind if fault is not None and fault.strikes(method, path) else None

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: tuple[str, int]
    faulty: FaultyServer

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.faulty.decide(self.command, self.path)
        if kind in _ERRORS:
            self._error(*_ERRORS[kind])
        elif kind == "silent":
            time.sleep(SILENT)
            self.close_connection = True
        elif kind == "hung up":
            self.close_connection = True
        else:
            self._pass(body, kind)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the base class's names

    def _pass(self, body: bytes, kind: str | None) -> None:
        sent = flipped(body) if kind == "bit flipped in the request" else body
        status, headers, answer = self._ask(sent)
        if kind == "answer lost":
            self.close_connection = True
            return
        if kind == "bit flipped in the answer" and self.command == "GET":
            answer = flipped(answer)
        cut = kind == "cut short" and self.command == "GET"
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if cut:
            self.close_connection = True
            answer = answer[: len(answer) // 2]
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in _HOP]
        if not any(name.lower() == "content-length" for name, _ in headers):
            headers.append(("Content-Length", str(len(data))))
        return answer.status, headers, data

    def _error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def flipped(data: bytes) -> bytes:
    """Returns bytes with one bit of the middle one turned."""
    if not data:
        return data
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@contextlib.contextmanager
def faulty(upstream: str) -> Iterator[FaultyServer]:
    """Runs a faulty server before a server."""
    with contextlib.closing(FaultyServer(upstream)) as running:
        yield running
