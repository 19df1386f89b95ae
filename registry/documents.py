"""Reads JSON that came from outside, strictly: what is signed must have one meaning only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from registry.errors import InvalidRecordError

MAX_BYTES = 16 * 1024 * 1024
"""The largest JSON document that is read: far above a manifest of 10,000 files (about 2 MB)."""


def read_object(data: bytes, *, where: str) -> dict[str, Any]:
    """Parses a JSON object in UTF-8; refuses duplicate keys, NaN, halves of surrogates, others."""
    if len(data) > MAX_BYTES:
        raise InvalidRecordError(
            "the document is too large",
            where=where,
            actual=f"{len(data)} bytes",
            expected=f"at most {MAX_BYTES}",
        )
    try:
        text = data.decode()
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if b"\\ud" in data.lower():  # an escape that may be half of a pair: no text can hold it
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRecordError(f"not a JSON document: {error}", where=where) from error
    if not isinstance(document, dict):
        raise InvalidRecordError(
            "not a JSON object", where=where, actual=type(document).__name__, expected="an object"
        )
    return document


def check_schema(document: Mapping[str, Any], version: int, *, where: str) -> None:
    """Raises InvalidRecordError unless the document's `schema` is the one this code reads."""
    if document.get("schema") != version:
        raise InvalidRecordError(
            "an unknown version of the document",
            where=where,
            actual=document.get("schema"),
            expected=version,
            remedy="use a version of Enginekeeper at least as new as the one that wrote it",
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
