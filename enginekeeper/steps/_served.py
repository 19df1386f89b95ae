"""A `trtllm-serve` that this step started, and its completions, in token ids.

Written against the documented server and proved against a double of it; not run on a GPU.

Rules:

- it listens on this machine only, and ends with this step;
- a request says only what every release's schema has: unknown fields are refused by the server;
- ids go in and ids come out (`detokenize: false`): text would name some tokens twice;
- an answer is read up to what the request can need, and no further.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Prompts = Sequence[Sequence[int]]

START_SECONDS = 1800
"""Loading a large engine takes minutes; a server that never answers ends the step."""

REQUEST_SECONDS = 600
_PER_TOKEN, _PER_NUMBER, _ENVELOPE = 4096, 32, 1 << 20
"""Bytes of JSON that an answer may take: for a token, for a logit, and besides."""


@contextmanager
def serving(command: list[str], arguments: list[str], options: dict[str, Any]) -> Iterator[Served]:
    """Starts a server and gives it when it answers; ends it in any case."""
    settings = Path("llm_api_options.yaml").absolute()
    settings.write_text(json.dumps(options, indent=2), encoding="utf-8")  # JSON is YAML, too
    port = _free_port()
    words = [
        *arguments, "--host", "127.0.0.1", "--port", str(port),
        "--extra_llm_api_options", str(settings),
    ]  # fmt: skip
    with subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL) as child:
        try:
            server = Served(port)
            server.wait(child)
            yield server
        finally:
            child.kill()


class Served:
    """One server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.model = ""

    def wait(self, child: subprocess.Popen[bytes]) -> None:
        """Waits until the server is healthy; ends this step as the server ended, if it did."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if (status := child.poll()) is not None:
                raise SystemExit(status if status > 0 else 128 - status)
            try:
                if self._send("GET", "/health", None, 1 << 20)[0] == http.client.OK:
                    self.model = self._get("/v1/models")["data"][0]["id"]
                    return
            except OSError:
                time.sleep(0.2)
        raise Refusal(
            "server-silent", "trtllm-serve did not answer in time", actual=f"{START_SECONDS} s",
        )  # fmt: skip

    def version(self) -> str:
        """Returns the release that the server says it is."""
        return str(self._get("/version")["version"])

    def complete(self, prompts: Prompts, tokens: int, **wanted: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Continues prompts greedily, past any end of text; returns their choices in order."""
        request = {
            "model": self.model, "prompt": [list(ids) for ids in prompts], "max_tokens": tokens,
            "top_k": 1, "ignore_eos": True, "detokenize": False, "add_special_tokens": False,
            **wanted,
        }  # fmt: skip
        read = sum(map(len, prompts)) if wanted.get("return_context_logits") else 0
        largest = _ENVELOPE + tokens * len(prompts) * _PER_TOKEN + read * _PER_NUMBER * 300_000
        status, body = self._send("POST", "/v1/completions", request, largest)
        answer = _object(body)
        if status != http.client.OK:
            raise Refusal(
                "request-refused", "trtllm-serve refused a completion", where=f"HTTP {status}",
                actual=str(answer.get("message", answer))[:500],
            )  # fmt: skip
        choices = sorted(answer.get("choices") or [], key=lambda one: int(one["index"]))
        if len(choices) != len(prompts):
            raise Refusal(
                "unexpected-output", "trtllm-serve answered another number of prompts",
                expected=len(prompts), actual=len(choices),
            )  # fmt: skip
        return choices

    def _get(self, path: str) -> dict[str, Any]:
        status, body = self._send("GET", path, None, 1 << 20)
        if status != http.client.OK:
            raise Refusal("unexpected-output", f"trtllm-serve has no {path}", actual=status)
        return _object(body)

    def _send(self, verb: str, path: str, content: object, largest: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=REQUEST_SECONDS)
        try:
            body = None if content is None else json.dumps(content)
            connection.request(verb, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            read = response.read(largest + 1)
        finally:
            connection.close()
        if len(read) > largest:
            raise Refusal(
                "unexpected-output", "trtllm-serve's answer is longer than it can need",
                where=path, expected=f"at most {largest} bytes",
            )  # fmt: skip
        return response.status, read


def ids_of(choice: dict[str, Any]) -> list[int]:
    """Returns the token ids of a choice; refuses a server that answers in text alone."""
    ids = choice.get("token_ids")
    if not isinstance(ids, list):
        raise Refusal(
            "unexpected-output", "trtllm-serve gave text and no token ids",
            expected="token_ids, with detokenize: false", actual=sorted(choice),
            remedy="ask it through the LLM API instead",
        )  # fmt: skip
    return ids


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal(
            "unexpected-output", "trtllm-serve's answer is no JSON object",
            actual=body[:200].decode(errors="replace"),
        )  # fmt: skip
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
