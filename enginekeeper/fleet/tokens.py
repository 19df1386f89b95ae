"""Tokens of nodes: what proves to the server which node speaks.

A token is `ek1.<43 random characters>.<node>`; the server keeps its SHA-256 alone. The name says
whose digest to compare with, in constant time, so that nothing is looked up by the secret.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from registry.errors import InvalidRecordError
from registry.names import check_component

_FORM, _SECRET_BYTES = "ek1", 32
_LONGEST = 256


def make_token(node: str) -> str:
    """Makes a token for a node; it is shown once and kept nowhere."""
    return f"{_FORM}.{secrets.token_urlsafe(_SECRET_BYTES)}.{node}"


def token_digest(token: str) -> str:
    """Returns what is kept of a token: its SHA-256 in hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def node_of(token: str) -> str | None:
    """Returns whose token it says to be; None for what cannot be one."""
    form, _, rest = token.partition(".")
    secret, _, name = rest.partition(".")
    if form != _FORM or not secret or len(token) > _LONGEST:
        return None
    try:
        return check_component(name, where="token")
    except InvalidRecordError:
        return None


def is_token(token: str, digest: str) -> bool:
    """Says whether a token is the one with a digest, in a time that says nothing about it."""
    return hmac.compare_digest(token_digest(token), digest)
