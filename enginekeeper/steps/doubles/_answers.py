"""How the doubles of servers answer: JSON, and no word of it on the terminal."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class BadRequestError(Exception):
    """A request that the server answers with 400."""


class Answering(BaseHTTPRequestHandler):
    """Sends JSON."""

    def log_message(self, *_words: object) -> None:
        """Says nothing of each request."""

    def answer(self, status: int, body: dict[str, Any] | None) -> None:
        """Answers with a status, and an object or nothing."""
        said = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


def release_told(path: str) -> str:
    """Lets the double of the LLM API be what a file tells; returns the release."""
    from tensorrt_llm_release import STATE  # noqa: PLC0415 - its folder is on the path only now

    told = json.loads(Path(path).read_text(encoding="utf-8"))
    STATE.version = told["version"]
    STATE.models = {Path(name): Path(model) for name, model in told["models"].items()}
    return str(told["version"])
