"""Digests as a type: what names bytes, files, and canonical JSON documents.

Rules:

- a digest always carries its algorithm (`sha256:…`), never a bare hex string;
- a document's digest is taken over canonical JSON (sorted keys, no spaces, UTF-8, no NaN);
- a digest over declared inputs carries the name of its scheme, so that a change of
  what is hashed is a change of name and never a silent miss.

Example:
    >>> str(digest_bytes(b""))[:14]
    'sha256:e3b0c44'
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InvalidRecordError

_HEX = re.compile(r"[0-9a-f]{64}")
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_LEAVES = frozenset({str, int, float, bool, type(None)})
_SCHEME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, order=True)
class Digest:
    """A SHA-256 with the name of what was hashed; `Digest.parse(str(d)) == d`."""

    scheme: str
    """`sha256` for bytes; `<name>-v<N>` for a document, e.g. `ek-key-v1`."""

    value: str
    """64 lower-case hexadecimal digits."""

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.value) or not _SCHEME.fullmatch(self.scheme):
            raise InvalidRecordError(
                "not a digest",
                actual=f"{self.scheme}:{self.value}",
                expected="<scheme>:<64 lower-case hexadecimal digits>",
            )

    def __str__(self) -> str:
        return f"{self.scheme}:{self.value}"

    @property
    def short(self) -> str:
        """The first twelve digits, for a person to read; never for a look-up that must be exact."""
        return self.value[:12]

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Reads `scheme:hex`; raises InvalidRecordError on anything else."""
        scheme, colon, value = text.partition(":")
        if not colon:
            raise InvalidRecordError("not a digest", actual=text, expected="<scheme>:<hex>")
        return cls(scheme, value)


def digest_bytes(data: bytes) -> Digest:
    """Names bytes by their SHA-256."""
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def digest_file(path: Path) -> Digest:
    """Names a file's bytes by their SHA-256, reading it in pieces."""
    with path.open("rb") as handle:
        return Digest("sha256", hashlib.file_digest(handle, "sha256").hexdigest())


def canonical_json(document: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Serializes a JSON value in the one way it is hashed and signed; refuses NaN."""
    try:
        _refuse_other_keys(document)
        return _CANONICAL.encode(document).encode()  # fails on lone surrogates, which are not UTF-8
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"not a JSON document: {error}") from error


def _refuse_other_keys(document: object) -> None:
    """Refuses keys that json would turn into strings: `{1: …}` and `{"1": …}` must not collide.

    It goes into what may hold keys alone: of an inventory's four hundred values one in ten.
    """
    values: Iterable[object] = ()
    if isinstance(document, dict):
        for key in document:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not a string")
        values = document.values()
    elif isinstance(document, list | tuple):
        values = document
    for value in values:
        if type(value) not in _LEAVES:
            _refuse_other_keys(value)


def digest_document(document: Any, scheme: str) -> Digest:  # noqa: ANN401 - any JSON value
    """Names a JSON document; the scheme says what was hashed and in which version."""
    return Digest(scheme, hashlib.sha256(canonical_json(document)).hexdigest())
