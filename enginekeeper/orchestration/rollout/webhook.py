"""Tells a wave's changes to somebody's HTTP endpoint: signed, at least once, in order of version.

Rules:

- what is sent is where the wave is now, not what happened in between: who missed one message
  misses nothing by taking the next;
- the body and the time are signed with HMAC-SHA256 by a secret that both know; who takes it must
  check the signature, and refuse what is older than some minutes;
- only http and https, no credentials in the address, no redirects: what is signed for one
  address is sent to no other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from typing import IO, Any
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from enginekeeper import __version__
from enginekeeper.errors import InputError, UnavailableError
from registry.waves.types import Stage, Wave

TIMESTAMP, SIGNATURE = "X-Enginekeeper-Timestamp", "X-Enginekeeper-Signature"
DELIVERY = "X-Enginekeeper-Delivery"
"""Wave and version: the same twice is the same message."""

_TOLD = (Stage.RELEASED, Stage.UPGRADED, Stage.FAILED, Stage.REVERTING)
_NAMES = 1000
"""Names told of each stage; `nodes` has how many there are."""

_SILENT = 10.0
_ATTEMPTS = 3
_SERVER_FAULT, _TOO_MANY = 500, 429

Wait = Callable[[Any], float]
_GROWING: Wait = wait_random_exponential(multiplier=1, max=10)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Lets a redirect be the error that it is here."""

    def redirect_request(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - urllib's own
        """Returns no request to follow."""
        return


def check_url(url: str) -> str:
    """Returns the address of a webhook; raises InputError for one that nothing is sent to."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise _no_address(url) from None
    if not fine or not url.isprintable() or " " in url:
        raise _no_address(url)
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "a webhook's address must not hold a password: it is shown and logged",
            expected="an address without user and password",
            remedy="the signature tells who sends: ENGINEKEEPER_WEBHOOK_SECRET_FILE",
        )
    return url


def message(wave: Wave) -> dict[str, Any]:
    """Returns what is told of a wave."""
    named = {str(stage): [n.name for n in wave.nodes if n.stage is stage] for stage in _TOLD}
    return {
        "wave": wave.name,
        "version": wave.version,
        "driver": wave.driver,
        "phase": str(wave.phase),
        "reason": wave.reason,
        "simulated": wave.simulated,
        "announced_at": wave.announced_at.isoformat(),
        "safe_at": None if wave.safe_at is None else wave.safe_at.isoformat(),
        "nodes": wave.stage_counts(),
        "named": {stage: names[:_NAMES] for stage, names in named.items() if names},
        "named_at_most": _NAMES,
    }


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Returns the signature over a time and a body."""
    digest = hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def deliver(
    wave: Wave,
    url: str,
    secret: bytes,
    *,
    now: datetime,
    wait: Wait = _GROWING,
) -> None:
    """Sends a wave's message; raises UnavailableError when nobody takes it in a few attempts."""
    body = json.dumps(message(wave), ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(now.timestamp()))
    request = urllib.request.Request(  # noqa: S310 - check_url lets http and https through
        check_url(url),
        data=body,
        method="POST",
        headers={
            "Content-Type": "application/json",
            "User-Agent": f"enginekeeper/{__version__}",
            TIMESTAMP: timestamp,
            SIGNATURE: signature(secret, timestamp, body),
            DELIVERY: f"{wave.name}/{wave.version}",
        },
    )
    opener = urllib.request.build_opener(_NoRedirects)
    again = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait,
        reraise=True,
    )
    try:
        again(_send, opener, request)
    except OSError as error:  # urllib's own errors are of its kind
        raise UnavailableError(
            "the webhook did not take the message",
            where=f"{url}, wave {wave.name}",
            actual=_said(error),
            expected="an answer 2xx",
            remedy="it is sent again when the wave goes on: enginekeeper wave advance",
            transient=_may_pass(error),
        ) from error


def _send(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> None:
    answer: IO[bytes]
    try:
        with opener.open(request, timeout=_SILENT) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= _SERVER_FAULT or error.code == _TOO_MANY
    return isinstance(error, OSError)


def _said(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    reason = getattr(error, "reason", None)
    return str(reason or error)


def _no_address(url: str) -> InputError:
    return InputError(
        "not the address of a webhook", actual=ascii(url)[:200], expected="http:// or https://"
    )
