"""A server on this machine that speaks JSON, started by a step and ended with it.

An answer is read up to what the request can need, and no further.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from _step import Refusal

START_SECONDS = 1800
"""Loading a large model takes minutes; a server that never answers ends the step."""

REQUEST_SECONDS = 600
ENVELOPE = 1 << 20
"""Bytes of JSON that an answer may take besides what was asked for."""


@dataclass(frozen=True)
class LocalServer:
    """What is known of one: its name for messages, and its port."""

    name: str
    port: int

    def wait(self, child: subprocess.Popen[bytes], path: str) -> None:
        """Waits until the server is healthy; ends this step as the server ended, if it did."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if (status := child.poll()) is not None:
                raise SystemExit(status if status > 0 else 128 - status)
            try:
                if self.send("GET", path, None, ENVELOPE)[0] == http.client.OK:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise Refusal(
            "server-silent", f"{self.name} did not answer in time", actual=f"{START_SECONDS} s",
        )  # fmt: skip

    def get(self, path: str) -> dict[str, Any]:
        """Returns the object at a path."""
        status, body = self.send("GET", path, None, ENVELOPE)
        if status != http.client.OK:
            raise Refusal("unexpected-output", f"{self.name} has no {path}", actual=status)
        return self.object(body)

    def post(self, path: str, content: object, largest: int) -> dict[str, Any]:
        """Sends a request and returns its answer; refuses one that the server refused."""
        status, body = self.send("POST", path, content, largest)
        answer = self.object(body)
        if status != http.client.OK:
            said = answer.get("message") or answer.get("error") or answer
            raise Refusal(
                "request-refused", f"{self.name} refused a request", where=f"HTTP {status}",
                actual=str(said)[:500],
            )  # fmt: skip
        return answer

    def send(self, verb: str, path: str, content: object, largest: int) -> tuple[int, bytes]:
        """Returns status and body of an answer that is no longer than it can need."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        try:
            body = None if content is None else json.dumps(content)
            connection.request(verb, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            read = response.read(largest + 1)
        finally:
            connection.close()
        if len(read) > largest:
            raise Refusal(
                "unexpected-output", f"{self.name}'s answer is longer than it can need",
                where=path, expected=f"at most {largest} bytes",
            )  # fmt: skip
        return response.status, read

    def object(self, body: bytes) -> dict[str, Any]:
        """Returns the JSON object of an answer."""
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal(
                "unexpected-output", f"{self.name}'s answer is no JSON object",
                actual=body[:200].decode(errors="replace"),
            )  # fmt: skip
        return found


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
