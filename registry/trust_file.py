"""The trust file: the policy of `registry.trust` as a small JSON file, changed by one at a time.

Rules:

- both schemas are read, the second is written when something is changed: the first had no
  windows, thresholds or revocations, and a reader of it would ignore them;
- a file that others may write is refused;
- a change is whole or not at all, and a draft that a killed process left is replaced.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.documents import read_object
from registry.errors import InvalidRecordError, RecordNotFoundError
from registry.files import locked, write_whole
from registry.trust import WAIVER_DAYS, KeyRevocation, Purpose, Trust, TrustedKey

SCHEMA = 2
_FIELDS = frozenset({"schema", "keys", "revocations", "thresholds", "snapshot", "max_waiver_days"})
_FIRST_FIELDS = frozenset({"schema", "keys"})
_KEY_FIELDS = frozenset(
    {
        "keyid",
        "keytype",
        "scheme",
        "public",
        "identity",
        "issuer",
        "trusted_root",
        "purposes",
        "root",
        "not_before",
        "not_after",
    }
)
MOST_WAIVER_DAYS = 3650
_SNAPSHOT = {"off": False, "required": True}


def trust_as_dict(trust: Trust) -> dict[str, Any]:
    """Returns the trust file's content.

    What has its default is left out where readers of before that setting would refuse it.
    """
    days = trust.max_waiver_days
    return {
        "schema": SCHEMA,
        "keys": [key.as_dict() for key in trust.keys],
        "revocations": [one.as_dict() for one in trust.revocations],
        "thresholds": {str(purpose): many for purpose, many in sorted(trust.thresholds.items())},
        "snapshot": "required" if trust.snapshot_required else "off",
        **({} if days == WAIVER_DAYS else {"max_waiver_days": days}),
    }


def trust_from_dict(document: Mapping[str, Any], *, where: str) -> Trust:
    """Reads a trust file's content; raises InvalidRecordError.

    A field that this version does not know is an error: it may well say whom not to trust.
    """
    schema = document.get("schema")
    if type(schema) is not int or schema not in (1, SCHEMA):
        raise InvalidRecordError(
            "an unknown version of the document",
            where=where, actual=schema, expected=f"1 or {SCHEMA}",
            remedy="use a version of Enginekeeper at least as new as the one that wrote it",
        )  # fmt: skip
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise InvalidRecordError("the trust file lists no keys", where=where)
    keys = tuple(TrustedKey.from_dict(entry) for entry in entries)
    _check_fields(document, _FIELDS if schema == SCHEMA else _FIRST_FIELDS, where)
    if schema == 1:
        return Trust(keys)
    for entry in entries:
        _check_fields(entry, _KEY_FIELDS, where)
    _check_once(keys, where)
    revoked = document.get("revocations", [])
    if not isinstance(revoked, list):
        raise InvalidRecordError("revocations are a list", where=where, actual=revoked)
    return Trust(
        keys,
        tuple(KeyRevocation.from_dict(entry) for entry in revoked),
        _thresholds(document.get("thresholds", {}), where),
        _snapshot(document.get("snapshot", "off"), where),
        _waiver_days(document.get("max_waiver_days", WAIVER_DAYS), where),
    )


def read_trust(path: Path) -> Trust:
    """Reads a trust file; raises RecordNotFoundError or InvalidRecordError."""
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise RecordNotFoundError(
            "there is no trust file",
            where=str(path),
            remedy="copy the one of the registry's owner, or trust keys of your own: "
            "enginekeeper key trust",
        ) from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidRecordError(
            "others on this host may write the trust file",
            where=str(path), actual=stat.filemode(mode), expected="-rw-r--r--",
            remedy=f"chmod 644 {path}",
        )  # fmt: skip
    return trust_from_dict(read_object(data, where=str(path)), where=str(path))


def add_trusted_key(path: Path, key: TrustedKey) -> Trust:
    """Adds a key to a trust file, which is created if need be, and returns the new content."""
    return change_trust(path, lambda trust: trust.with_key(key))


def change_trust(path: Path, change: Callable[[Trust], Trust]) -> Trust:
    """Changes a trust file, which is created if need be, and returns the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        trust = read_trust(path) if path.exists() else Trust()
        changed = change(trust)
        if changed != trust:
            write_whole(path, json.dumps(trust_as_dict(changed), indent=2).encode() + b"\n")
        return changed


def _check_fields(document: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    if unknown := sorted(document.keys() - known):
        raise InvalidRecordError(
            f"unknown fields: {', '.join(unknown)}", where=where, expected=", ".join(sorted(known))
        )


def _check_once(keys: Sequence[TrustedKey], where: str) -> None:
    """Refuses a key that is listed twice: which of its windows would count?"""
    names = [(key.keyid, key.root) for key in keys]
    for keyid, root in names:
        if names.count((keyid, root)) > 1:
            raise InvalidRecordError(
                "a key is listed twice", where=where, actual=f"{keyid} ({root})"
            )


def _thresholds(document: object, where: str) -> dict[Purpose, int]:
    if not isinstance(document, Mapping):
        raise InvalidRecordError("thresholds are an object", where=where, actual=document)
    found = {}
    for name, many in document.items():
        if name not in set(Purpose) or type(many) is not int or many < 1:
            raise InvalidRecordError(
                "not a threshold",
                where=where,
                actual=f"{name}: {many}",
                expected=f"a whole number from 1 on, for one of {', '.join(Purpose)}",
            )
        found[Purpose(name)] = many
    return found


def _snapshot(word: object, where: str) -> bool:
    if not isinstance(word, str) or word not in _SNAPSHOT:
        raise InvalidRecordError(
            "not a policy for snapshots", where=where, actual=word, expected="off or required"
        )
    return _SNAPSHOT[word]


def _waiver_days(days: object, where: str) -> int:
    if type(days) is not int or not 1 <= days <= MOST_WAIVER_DAYS:
        raise InvalidRecordError(
            "not a length of waivers",
            where=where,
            actual=f"max_waiver_days: {days}",
            expected=f"a whole number of days from 1 to {MOST_WAIVER_DAYS}",
        )
    return days
