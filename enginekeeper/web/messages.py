"""Requests and answers: bodies within limits, tokens, and errors as JSON.

TLS is the business of the proxy in front. A body is never read further than its limit, and not at
all before its sender is known.
"""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from enginekeeper.errors import InputError
from enginekeeper.fleet.refusals import RefusedMessageError, TooLargeError, UnknownTokenError
from enginekeeper.fleet.wire import Problem
from registry.errors import DiagnosedError, InvalidRecordError, StoreUnavailableError

_LOG = logging.getLogger(__name__)
_JSON = "application/json"
_OURS = 500
"""From here on it is the server's fault."""


def answer(body: bytes, status: int = 200) -> Response:
    """Returns a JSON answer."""
    return Response(body, status, media_type=_JSON)


def bearer(request: Request) -> str:
    """Returns the token of a request; raises UnknownTokenError where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnknownTokenError("there is no token", where="Authorization", expected="Bearer TOKEN")
    return token


async def body_of(request: Request, limit: int) -> bytes:
    """Returns a body; raises TooLargeError as soon as it is known to be larger than its limit."""
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said[:20]) > limit:
        raise _too_large(request, f"{said[:20]} bytes", limit)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise _too_large(request, f"more than {limit} bytes", limit)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(request: Request, actual: str, limit: int) -> TooLargeError:
    return TooLargeError(
        "too large", where=request.url.path, actual=actual, expected=f"at most {limit} bytes"
    )


async def refused(request: Request, error: Exception) -> Response:
    """Returns what is wrong, in the words of the error, with the status of its kind."""
    if isinstance(error, HTTPException):
        problem = Problem(error.detail, where=request.url.path)
        return answer(problem.to_bytes(), error.status_code)
    if not isinstance(error, DiagnosedError):
        _LOG.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(Problem("a defect of the server", where=request.url.path).to_bytes(), _OURS)
    status = _status(error)
    if status != UnknownTokenError.status:  # anybody can send what nobody knows
        _LOG.log(
            logging.ERROR if status >= _OURS else logging.INFO,
            "%s %s: %d %s", request.method, request.url.path, status, " ".join(str(error).split()),
        )  # fmt: skip
    found = answer(Problem.of(error).to_bytes(), status)
    if isinstance(error, TooLargeError):
        found.headers["connection"] = "close"  # the rest of the body is not waited for
    if isinstance(error, UnknownTokenError):
        found.headers["www-authenticate"] = "Bearer"
    return found


def _status(error: DiagnosedError) -> int:
    if isinstance(error, RefusedMessageError):
        return error.status
    if isinstance(error, InputError | InvalidRecordError):
        return RefusedMessageError.status
    return 503 if isinstance(error, StoreUnavailableError) or error.transient else _OURS
