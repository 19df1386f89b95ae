"""Reads a small text from a server of this node or near it, with little patience."""

from __future__ import annotations

from urllib.parse import urlsplit

import urllib3

from enginekeeper.errors import InputError, UnavailableError

_OK = 200


def check_url(url: str, where: str) -> str:
    """Returns an http or https address without a name and a password in it; raises InputError."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, fine = urlsplit(""), False
    if not fine or parts.username is not None or not url.isprintable():
        raise InputError(
            "not an address that can be asked", where=where,
            actual=ascii(url.rpartition("@")[2])[:200], expected="http://HOST[:PORT][/PATH]",
        )  # fmt: skip
    return url


def get_text(url: str, *, limit: int, seconds: float = 2.0) -> str:
    """Returns what an address answers; raises UnavailableError where it is not a text of that size.

    Follows no redirect and sends nothing but the request.
    """
    pool = urllib3.PoolManager(
        num_pools=1, retries=False, timeout=urllib3.Timeout(connect=seconds, read=seconds)
    )
    try:
        response = pool.request("GET", url, redirect=False, preload_content=False)
        try:
            data = response.read(limit + 1)
        finally:
            response.close()
    except urllib3.exceptions.HTTPError as error:
        raise UnavailableError(f"does not answer: {type(error).__name__}", where=url) from error
    finally:
        pool.clear()
    if response.status != _OK:
        raise UnavailableError(f"answers {response.status}", where=url)
    if len(data) > limit:
        raise UnavailableError("answers more than is read", where=url, expected=f"{limit} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnavailableError("answers no text", where=url) from error
