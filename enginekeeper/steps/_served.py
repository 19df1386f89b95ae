"""A `trtllm-serve` that this step started, and its completions, in token ids.

Written against the documented server and proved against a double of it; not run on a GPU.

Rules:

- it listens on this machine only, and ends with this step;
- a request says only what every release's schema has: unknown fields are refused by the server;
- ids go in and ids come out (`detokenize: false`): text would name some tokens twice.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _local_server import ENVELOPE, LocalServer, free_port
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Prompts = Sequence[Sequence[int]]

_PER_TOKEN, _PER_NUMBER = 4096, 32
"""Bytes of JSON that an answer may take: for a token, for a logit."""


@contextmanager
def serving(command: list[str], arguments: list[str], options: dict[str, Any]) -> Iterator[Served]:
    """Starts a server and gives it when it answers; ends it in any case."""
    settings = Path("llm_api_options.yaml").absolute()
    settings.write_text(json.dumps(options, indent=2), encoding="utf-8")  # JSON is YAML, too
    port = free_port()
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
        self._server = LocalServer("trtllm-serve", port)
        self.model = ""

    def wait(self, child: subprocess.Popen[bytes]) -> None:
        """Waits until the server is healthy; ends this step as the server ended, if it did."""
        self._server.wait(child, "/health")
        self.model = self._server.get("/v1/models")["data"][0]["id"]

    def version(self) -> str:
        """Returns the release that the server says it is."""
        return str(self._server.get("/version")["version"])

    def complete(self, prompts: Prompts, tokens: int, **wanted: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Continues prompts greedily, past any end of text; returns their choices in order."""
        request = {
            "model": self.model, "prompt": [list(ids) for ids in prompts], "max_tokens": tokens,
            "top_k": 1, "ignore_eos": True, "detokenize": False, "add_special_tokens": False,
            **wanted,
        }  # fmt: skip
        read = sum(map(len, prompts)) if wanted.get("return_context_logits") else 0
        largest = ENVELOPE + tokens * len(prompts) * _PER_TOKEN + read * _PER_NUMBER * 300_000
        answer = self._server.post("/v1/completions", request, largest)
        choices = sorted(answer.get("choices") or [], key=lambda one: int(one["index"]))
        if len(choices) != len(prompts):
            raise Refusal(
                "unexpected-output", "trtllm-serve answered another number of prompts",
                expected=len(prompts), actual=len(choices),
            )  # fmt: skip
        return choices


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
