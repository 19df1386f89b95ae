"""A server that speaks the fleet's wire, strictly, and keeps what it was told in memory.

For tests of the agent alone. It takes tokens, refuses what the contract refuses, and can be told
to misbehave; it decides nothing of what the real server decides from a catalogue.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from enginekeeper.errors import InputError
from enginekeeper.fleet.inventories import parse_inventory
from enginekeeper.fleet.wire import (
    DESIRED_PATH,
    HEARTBEAT_PATH,
    INVENTORY_PATH,
    MAX_HEARTBEAT_BYTES,
    MAX_INVENTORY_BYTES,
    Desired,
    HeartbeatAnswer,
    InventoryAnswer,
    Problem,
    Wish,
    parse_heartbeat,
    parse_inventory_message,
    state_of,
)

TOKEN = "a-token-of-the-tests"


@dataclass
class FleetDouble:
    """What the server was told, and how it is to behave."""

    node: str
    desired: Desired | None = None
    next_seconds: int = 1
    failing: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Statuses, headers and bodies of the next answers, whatever is asked."""
    heartbeats: list[str] = field(default_factory=list)
    """The states that were told, in order."""
    inventories: list[dict[str, object]] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Every request, by method and path."""
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        """Answers one request."""
        self.asked.append(f"{method} {path}")
        if hashlib.sha256(token.encode()).digest() != hashlib.sha256(TOKEN.encode()).digest():
            return 401, Problem("the token is not known").to_bytes()
        try:
            if (method, path) == ("POST", HEARTBEAT_PATH):
                return self._heartbeat(body)
            if (method, path) == ("PUT", INVENTORY_PATH):
                return self._inventory(body)
            if (method, path) == ("GET", DESIRED_PATH) and self.desired is not None:
                return 200, self.desired.to_bytes()
        except InputError as error:
            return 422, Problem.of(error).to_bytes()
        return 404, Problem("there is nothing").to_bytes()

    def _newer(self, node: str, sequence: int) -> tuple[int, bytes] | None:
        if node != self.node:
            return 403, Problem("the token is another node's").to_bytes()
        if self.sequences and sequence <= self.sequences[-1]:
            return 409, Problem("the sequence is not newer", actual=str(sequence)).to_bytes()
        self.sequences.append(sequence)
        return None

    def _heartbeat(self, body: bytes) -> tuple[int, bytes]:
        if len(body) > MAX_HEARTBEAT_BYTES:
            return 413, Problem("too large").to_bytes()
        message = parse_heartbeat(body)
        if (refused := self._newer(message.node, message.sequence)) is not None:
            return refused
        self.heartbeats.append(message.state)
        known = message.state in {state_of(one) for one in self.inventories}
        answer = HeartbeatAnswer(
            Wish.KNOWN if known else Wish.WANTED,
            None if self.desired is None else self.desired.digest, self.next_seconds,
        )  # fmt: skip
        return 200, answer.to_bytes()

    def _inventory(self, body: bytes) -> tuple[int, bytes]:
        if len(body) > MAX_INVENTORY_BYTES:
            return 413, Problem("too large").to_bytes()
        message = parse_inventory_message(body)
        if (refused := self._newer(message.node, message.sequence)) is not None:
            return refused
        document = dict(message.inventory)
        parse_inventory(body[body.index(b'"inventory":') + 12 : -1], "inventory")
        self.inventories.append(document)
        return 200, InventoryAnswer(state_of(document), recorded=True).to_bytes()


@contextmanager
def served(double: FleetDouble) -> Iterator[FleetDouble]:
    """Lets a double listen on this host while a block runs; on its old port if it had one."""
    handler = type("Handler", (_Handler,), {"double": double})
    server = ThreadingHTTPServer(("127.0.0.1", double.port), handler)
    server.daemon_threads = True
    double.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    double: FleetDouble

    def _answered(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers: dict[str, str] = {}
        if self.double.failing:
            status, headers, data = self.double.failing.pop(0)
        else:
            kind, _, token = self.headers.get("Authorization", "").partition(" ")
            status, data = self.double.answer(
                self.command, self.path, token if kind == "Bearer" else "", body
            )
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _answered  # noqa: N815 - names of http.server's

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""
