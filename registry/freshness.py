"""Whether the registry that is read is the registry of today: the reader's side of a snapshot.

What has been seen is remembered in a small file of this machine, by store, and never goes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer

from registry.blobs.interface import BlobStore, Document, disk_error
from registry.digests import Digest
from registry.documents import check_schema, read_object
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.files import locked, write_whole
from registry.queries import View
from registry.snapshots import SNAPSHOT, RegistryState, Snapshot, read_snapshot, sealed
from registry.trust import Trust

_TRIES = 8  # of a publisher that others were faster than
_SEEN = 1  # schema of the file that remembers


@dataclass(frozen=True)
class Freshness:
    """What a reader found out about the registry's age."""

    snapshot: Snapshot | None
    """The last one that can be believed, however old."""

    fault: str | None
    """Why nothing new may be deployed by it; None for a fresh one."""

    def trusting(self, trust: Trust) -> Trust:
        """Returns the trust without the keys that the snapshot revokes."""
        if self.snapshot is None:
            return trust
        return trust.revoking(*self.snapshot.state.key_revocations)

    def counts(self, waiver: Digest) -> bool:
        """Says whether the snapshot vouches for a waiver."""
        return self.snapshot is not None and waiver in self.snapshot.state.waivers

    def revokes(self, engine: Digest) -> bool:
        """Says whether the snapshot says that an engine is revoked."""
        return self.snapshot is not None and engine in self.snapshot.state.revoked_engines


def age_of(snapshot: Snapshot, trust: Trust) -> Freshness:
    """Says of a snapshot that is believed whether it has expired."""
    if snapshot.expires_at > trust.clock():
        return Freshness(snapshot, None)
    fault = f"snapshot {snapshot.version} expired at {snapshot.expires_at.isoformat()}"
    return Freshness(snapshot, fault)


@dataclass(frozen=True)
class Memory:
    """The highest version that this machine has seen of each store."""

    path: Path

    def seen(self, store: str) -> tuple[int, str] | None:
        """Returns version and digest of what was seen of a store; None before the first time."""
        entry = self._read().get(store)
        return None if entry is None else (entry["version"], entry["digest"])

    def remember(self, store: str, snapshot: Snapshot) -> None:
        """Remembers a snapshot, unless a later one was seen."""
        try:
            self._remember(store, snapshot)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def _remember(self, store: str, snapshot: Snapshot) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_suffix(".lock")):
            stores = self._read()
            known = stores.get(store)
            if known is not None and known["version"] >= snapshot.version:
                return
            stores[store] = {"version": snapshot.version, "digest": str(snapshot.digest)}
            document = {"schema": _SEEN, "stores": stores}
            write_whole(self.path, json.dumps(document, indent=2).encode())

    def _read(self) -> dict[str, Any]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise disk_error(error, self.path) from error
        try:
            return _stores(read_object(data, where=str(self.path)))
        except InvalidRecordError as error:
            raise InvalidRecordError(
                "what was seen of the registry cannot be read",
                where=str(self.path), actual=error.what,
                remedy="restore it; without it this machine can be fed an old snapshot once",
            ) from error  # fmt: skip


@dataclass(frozen=True)
class SnapshotReader:
    """Reads the snapshot of a store, and remembers what it has seen."""

    memory: Memory

    def freshness(self, store: BlobStore, trust: Trust) -> Freshness:
        """Says what the store's snapshot is worth.

        None at all, one that is older than what was seen, that nobody trusted signed or that has
        expired, a store that does not answer, and a memory that cannot be read, are faults and are
        not raised.
        """
        try:
            snapshot = self.snapshot(store, trust)
        except (
            IntegrityError, InvalidRecordError, RecordNotFoundError, StoreUnavailableError,
        ) as error:  # fmt: skip
            return Freshness(None, str(error))
        return age_of(snapshot, trust)

    def snapshot(self, store: BlobStore, trust: Trust) -> Snapshot:
        """Returns the store's snapshot, expired or not.

        Raises RecordNotFoundError for none, IntegrityError for one that nobody trusted signed or
        that is older than, or another than, the one that was seen.
        """
        snapshot = read_snapshot(store.get_document(SNAPSHOT), trust)
        seen = self.memory.seen(store.url)
        found = (snapshot.version, str(snapshot.digest))
        if seen is not None and (found[0] < seen[0] or (found[0] == seen[0] and found != seen)):
            raise IntegrityError(
                "the snapshot is older than, or another than, one that was seen here",
                where=f"{store.url}/{SNAPSHOT}",
                actual=f"version {found[0]} ({found[1][:19]})",
                expected=f"version {seen[0]} ({seen[1][:19]}) or later",
                remedy="find out who set the store back; what runs may go on running",
            )
        self.memory.remember(store.url, snapshot)
        return snapshot

    def publish(
        self, store: BlobStore, trust: Trust, state: Callable[[], RegistryState],
        lifetime: timedelta, signers: tuple[Signer, ...],
    ) -> Snapshot:  # fmt: skip
        """Signs and writes the next snapshot; the state is asked for again when others were faster.

        The next version is above everything that this machine has seen, so that a store that was
        set back is mended by publishing. An engine that the last snapshot revokes is revoked in the
        next, whatever the state says: a catalogue that was set back is not signed.
        """
        for attempt in range(_TRIES):
            current = _current(store)
            last = _believed(current, trust)
            version = 1 + max(self._seen(store), 0 if last is None else last.version)
            following = state() if last is None else state().revoking(last.state.revoked_engines)
            issued_at = trust.clock()
            envelope = sealed(following, version, issued_at, issued_at + lifetime, *signers)
            snapshot = read_snapshot(envelope, trust)
            try:
                store.put_document(
                    SNAPSHOT, envelope, if_match=None if current is None else current.version
                )
            except ConflictError:
                if attempt == _TRIES - 1:
                    raise
                continue
            self.memory.remember(store.url, snapshot)
            return snapshot
        raise AssertionError("the last attempt returns or raises")

    def _seen(self, store: BlobStore) -> int:
        seen = self.memory.seen(store.url)
        return 0 if seen is None else seen[0]


def with_swept(found: RegistryState, signed: RegistryState, view: View) -> RegistryState:
    """Returns a catalogue's state and the signed revocations of engines that have no row now.

    A sweep takes the row of a revoked engine, and its revocation stays in the snapshots: nothing
    was set back by that, and there is nothing left to open.
    """
    lost = signed.revoked_engines - found.revoked_engines
    return found.revoking(one for one in lost if view.known_engine(one) is None)


def differences(signed: RegistryState, found: RegistryState) -> list[dict[str, str]]:
    """Returns what a catalogue says otherwise than the snapshot: lost, added or moved."""
    a, b = _facts(signed), _facts(found)
    return [
        {"what": name, "signed": a.get(name, "-"), "found": b.get(name, "-")}
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def is_set_back(signed: RegistryState, found: RegistryState) -> bool:
    """Says whether a catalogue lacks a revocation that was signed: that comes from no good hand."""
    return bool(signed.revoked_engines - found.revoked_engines)


def _facts(state: RegistryState) -> Mapping[str, str]:
    channels = {
        f"channel {one.channel} of {one.model} on {one.target}": one.engine.short
        for one in state.channels
    }
    return {
        **channels,
        **{f"engine {one.short} revoked": "yes" for one in state.revoked_engines},
        **{f"key {one.keyid[:12]} revoked": one.reason for one in state.key_revocations},
        **{f"waiver {one.short} in force": "yes" for one in state.waivers},
    }


def _current(store: BlobStore) -> Document | None:
    try:
        return store.read_document(SNAPSHOT)
    except RecordNotFoundError:
        return None


def _believed(current: Document | None, trust: Trust) -> Snapshot | None:
    """Returns the snapshot that lies there; None for what nobody trusted signed."""
    if current is None:
        return None
    try:
        return read_snapshot(current.data, trust)
    except IntegrityError:
        return None


def _stores(document: Mapping[str, Any]) -> dict[str, Any]:
    check_schema(document, _SEEN, where="what was seen")
    stores = document.get("stores")
    if not isinstance(stores, dict) or not all(_is_entry(one) for one in stores.values()):
        raise InvalidRecordError("not a version and a digest for each store", actual=stores)
    return stores


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("version")) is int
        and isinstance(entry.get("digest"), str)
    )
