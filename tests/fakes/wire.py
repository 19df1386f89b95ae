"""Puts hooks between an S3 store and the wire: to look, and to answer in the server's stead."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from botocore.awsrequest import AWSRequest, AWSResponse

from registry.blobs.s3 import S3BlobStore

Hook = Callable[..., AWSResponse | None]


def on(store: S3BlobStore, operation: str, hook: Hook) -> None:
    """Puts a hook between the client and the wire; what it returns is the server's answer."""
    anything: Any = hook
    store._root.client.meta.events.register(f"before-send.s3.{operation}", anything)


def watch(store: S3BlobStore, operation: str) -> list[AWSRequest]:
    """Returns a list that every request of an operation is added to."""
    seen: list[AWSRequest] = []

    def look(request: AWSRequest, **_: object) -> None:
        seen.append(request)

    on(store, operation, look)
    return seen


def answers(code: str, status: int, times: int) -> tuple[Hook, list[str]]:
    """Returns a hook that answers the first requests with an error, and what it saw."""
    seen: list[str] = []

    def hook(request: AWSRequest, **_: object) -> AWSResponse | None:
        seen.append(str(request.method))
        if len(seen) > times:
            return None
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        return answer(request, status, body)

    return hook, seen


def answer(request: AWSRequest, status: int, body: bytes) -> AWSResponse:
    """Returns what a server would answer."""
    headers: Any = {"Content-Length": str(len(body)), "Content-Type": "application/xml"}
    raw: Any = _Raw(body)
    return AWSResponse(str(request.url), status, headers, raw)


class _Raw(io.BytesIO):
    def stream(self, **_: object) -> Any:  # noqa: ANN401 - what urllib3 gives botocore
        yield self.getvalue()
