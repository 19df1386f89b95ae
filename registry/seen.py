"""What this machine has seen: of each store's snapshots, and of the time.

It is a small file, and it never goes back: the highest version of each store, every engine and key
that any of them revoked, and the latest time, as this machine's clock or a keeper gave it. By that
time a clock that was set back is known, which would make fresh what has expired.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from registry.blobs.interface import disk_error
from registry.documents import check_schema, read_object
from registry.errors import InvalidRecordError
from registry.files import locked, write_whole
from registry.snapshots import RegistryState, Snapshot
from registry.trust import read_moment

_Stores = dict[str, Any]
_Seen = tuple[_Stores, datetime | None]
_SCHEMA = 1
_STEP = timedelta(minutes=1)
"""How far the time goes on before it is written down again: a gate is asked often."""


@dataclass(frozen=True)
class LastSeen:
    """The snapshot of a store that was seen last."""

    version: int
    digest: str
    signers: frozenset[str] = frozenset()
    """None are known of one that an earlier version of Enginekeeper saw."""


@dataclass(frozen=True)
class Memory:
    """The file of one machine that holds what it has seen."""

    path: Path

    def seen(self, store: str) -> LastSeen | None:
        """Returns the snapshot of a store that was seen last; None before the first time."""
        entry = self._read()[0].get(store)
        return None if entry is None else _last(entry)

    def revoked(self, store: str) -> RegistryState | None:
        """Returns what the snapshots revoked that were seen of a store.

        None before the first time, and where an earlier version of Enginekeeper kept only numbers.
        """
        return _revoked(self._read()[0].get(store, {}))

    def time(self) -> datetime | None:
        """Returns the latest time that was seen here; None before the first."""
        return self._read()[1]

    def remember_time(self, now: datetime) -> None:
        """Remembers what time it is, to the minute, unless a later time was seen."""
        seen = self.time()
        if seen is None or now >= seen + _STEP:
            self._change(lambda stores, time: (stores, now if time is None else max(now, time)))

    def forget_time(self) -> None:
        """Forgets the latest time: for a clock that was ahead and is right now."""
        self._change(lambda stores, _time: (stores, None))

    def carry_over(self, earlier: str, store: str) -> None:
        """Goes on with what was seen of a store under the name that it had in earlier versions.

        An earlier version may still run beside this one and see more than this one has.
        """
        if earlier == store:
            return
        stores, _ = self._read()
        if earlier in stores and _joined(stores, earlier, store) != stores.get(store):
            self._change(lambda now, time: ({**now, store: _joined(now, earlier, store)}, time))

    def remember(self, store: str, snapshot: Snapshot) -> None:
        """Remembers a snapshot and when it was issued, unless a later one was seen."""
        self._change(lambda stores, time: _with_snapshot(stores, time, store, snapshot))

    def _change(self, change: Callable[[_Stores, datetime | None], _Seen]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock")):
                before = self._read()
                after = change(*before)
                if after != before:
                    write_whole(self.path, json.dumps(_document(*after), indent=2).encode())
        except OSError as error:
            raise disk_error(error, self.path) from error

    def _read(self) -> _Seen:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}, None
        except OSError as error:
            raise disk_error(error, self.path) from error
        try:
            return _seen(read_object(data, where=str(self.path)))
        except InvalidRecordError as error:
            raise InvalidRecordError(
                "what was seen of the registry cannot be read",
                where=str(self.path), actual=error.what,
                remedy="restore it; without it this machine can be fed an old snapshot once",
            ) from error  # fmt: skip


def is_behind(snapshot: Snapshot, seen: LastSeen) -> bool:
    """Says whether a snapshot is older than, or another of the version of, one that was seen.

    One that revokes a key which signed the seen one is not: revocations stay in all that follow, so
    the seen one cannot be a later one of the registry; its version may be any that a thief chose.
    """
    if seen.signers & {one.keyid for one in snapshot.state.key_revocations}:
        return False
    if snapshot.version == seen.version:
        return str(snapshot.digest) != seen.digest
    return snapshot.version < seen.version


def _with_snapshot(stores: _Stores, time: datetime | None, store: str, snapshot: Snapshot) -> _Seen:
    known = stores.get(store)
    if known is not None and is_behind(snapshot, _last(known)):
        return stores, time
    kept = _revoked(known or {}) or RegistryState()
    entry = {
        "version": snapshot.version,
        "digest": str(snapshot.digest),
        "signers": sorted(snapshot.signers),
        "revoked": snapshot.state.lasting().carrying(kept).as_dict(),
    }
    latest = snapshot.issued_at if time is None else max(time, snapshot.issued_at)
    return {**stores, store: entry}, latest


def _joined(stores: _Stores, earlier: str, store: str) -> dict[str, Any]:
    """Returns the later of what was seen under two names, with all that either saw revoked."""
    both = [stores[name] for name in (store, earlier) if name in stores]
    kept = [one for entry in both if (one := _revoked(entry)) is not None]
    revoked = kept[0].carrying(kept[-1]) if kept else RegistryState()
    gone = {one.keyid for one in revoked.key_revocations}  # whoever had it chose any version
    later = max(both, key=lambda it: (not gone & _last(it).signers, _last(it).version))
    return {**later, "revoked": revoked.as_dict()} if kept else dict(later)


def _document(stores: _Stores, time: datetime | None) -> dict[str, Any]:
    said = {} if time is None else {"time": time.isoformat()}
    return {"schema": _SCHEMA, **said, "stores": stores}


def _seen(document: Mapping[str, Any]) -> _Seen:
    """Reads the file; one of an earlier version of Enginekeeper has no time."""
    check_schema(document, _SCHEMA, where="what was seen")
    try:
        time = None if "time" not in document else read_moment(document["time"])
    except (TypeError, ValueError) as error:
        raise InvalidRecordError(f"not a time: {error}", actual=document["time"]) from error
    stores = document.get("stores")
    if not isinstance(stores, dict) or not all(_is_entry(one) for one in stores.values()):
        raise InvalidRecordError("not a version and a digest for each store", actual=stores)
    for one in stores.values():
        _revoked(one)
    return stores, time


def _last(entry: Mapping[str, Any]) -> LastSeen:
    return LastSeen(entry["version"], entry["digest"], frozenset(entry.get("signers", ())))


def _revoked(entry: Mapping[str, Any]) -> RegistryState | None:
    if "revoked" not in entry:
        return None
    try:
        return RegistryState.from_dict(entry["revoked"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidRecordError(f"not what was revoked: {error}", actual=entry) from error


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("version")) is int
        and isinstance(entry.get("digest"), str)
        and isinstance(signers := entry.get("signers", []), list)
        and all(isinstance(one, str) for one in signers)
    )
