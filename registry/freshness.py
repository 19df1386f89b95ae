"""Whether the registry that is read is the registry of today: the reader's side of a snapshot.

A snapshot counts if it is signed, not older than what was seen here (`registry.seen`), and not
expired by a clock that is not behind the latest time that was seen here either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from securesystemslib.signer import Signer

from registry.blobs.interface import BlobStore, Document
from registry.digests import Digest, digest_bytes
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.queries import View
from registry.seen import Memory, is_behind
from registry.snapshots import SNAPSHOT, RegistryState, Snapshot, read_snapshot, sealed
from registry.trust import CLOCK_SKEW, Trust

_TRIES = 8  # of a publisher that others were faster than


@dataclass(frozen=True)
class Freshness:
    """What a reader found out about the registry's age."""

    snapshot: Snapshot | None
    """The last one that can be believed, however old."""

    fault: str | None
    """Why nothing new may be deployed by it; None for a fresh one."""

    kept: RegistryState = field(default_factory=RegistryState)
    """What the snapshots that were seen here before revoked."""

    set_back: bool = False
    """The fault is the clock of this machine: no time can be told by it, a waiver's end neither."""

    def trusting(self, trust: Trust) -> Trust:
        """Returns the trust without the keys that this snapshot, or one before it, revokes."""
        found = () if self.snapshot is None else self.snapshot.state.key_revocations
        return trust.revoking(*self.kept.key_revocations).revoking(*found)

    def counts(self, waiver: Digest) -> bool:
        """Says whether the snapshot vouches for a waiver."""
        return self.snapshot is not None and waiver in self.snapshot.state.waivers

    def revokes(self, engine: Digest) -> bool:
        """Says whether this snapshot, or one before it, says that an engine is revoked."""
        found = () if self.snapshot is None else self.snapshot.state.revoked_engines
        return engine in self.kept.revoked_engines or engine in found


def age_of(snapshot: Snapshot, trust: Trust) -> Freshness:
    """Says of a snapshot that is believed whether it has expired."""
    if snapshot.expires_at > trust.clock():
        return Freshness(snapshot, None)
    fault = f"snapshot {snapshot.version} expired at {snapshot.expires_at.isoformat()}"
    return Freshness(snapshot, fault)


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
        kept = RegistryState()
        try:
            kept = self.memory.revoked(self._name(store)) or kept
            if (behind := self._clock_fault(trust.clock())) is not None:
                return Freshness(None, str(behind), kept, set_back=True)
            snapshot = self.snapshot(store, trust)
            self.memory.remember_time(trust.clock())
        except (
            IntegrityError, InvalidRecordError, RecordNotFoundError, StoreUnavailableError,
        ) as error:  # fmt: skip
            return Freshness(None, str(error), kept)
        return replace(age_of(snapshot, trust), kept=kept)

    def kept(self, data: bytes, store: str, trust: Trust) -> Freshness:
        """Says what a snapshot of a store is worth that was kept for when the store is silent.

        One that is older than what was seen since is believed until it expires, with all that was
        seen revoked since, and no waiver counts by it: it may have ended. Faults are not raised.
        """
        kept: RegistryState | None = None
        try:
            kept, seen = self.memory.revoked(store), self.memory.seen(store)
            if (behind := self._clock_fault(trust.clock())) is not None:
                fault = str(behind)
                return Freshness(None, fault, kept or RegistryState(), set_back=True)
            snapshot = self._believed(data, store, trust)
            self.memory.remember_time(trust.clock())
        except (IntegrityError, InvalidRecordError, StoreUnavailableError) as error:
            return Freshness(None, str(error), kept or RegistryState())
        if seen is not None and is_behind(snapshot, seen):
            if kept is None:
                fault = "a later snapshot was seen here, and what it revoked was not remembered"
                return Freshness(None, fault)
            snapshot = replace(snapshot, state=replace(snapshot.state, waivers=frozenset()))
        return replace(age_of(snapshot, trust), kept=kept or RegistryState())

    def snapshot(self, store: BlobStore, trust: Trust) -> Snapshot:
        """Returns the store's snapshot, expired or not.

        Raises RecordNotFoundError for none, IntegrityError for one that nobody trusted signed or
        that is older than, or another than, the one that was seen.
        """
        name = self._name(store)
        snapshot = self._believed(store.get_document(SNAPSHOT), name, trust)
        seen = self.memory.seen(name)
        if seen is not None and is_behind(snapshot, seen):
            raise IntegrityError(
                "the snapshot is older than, or another than, one that was seen here",
                where=f"{store.url}/{SNAPSHOT}",
                actual=f"version {snapshot.version} ({str(snapshot.digest)[:19]})",
                expected=f"version {seen.version} ({seen.digest[:19]}) or later",
                remedy="find out who set the store back; what runs may go on running",
            )
        self.memory.remember(self._name(store), snapshot)
        return snapshot

    def publish(
        self, store: BlobStore, trust: Trust, state: Callable[[], RegistryState],
        lifetime: timedelta, signers: tuple[Signer, ...], *, accept_loss: bool = False,
    ) -> Snapshot:  # fmt: skip
        """Signs and writes the next snapshot; the state is asked for again when others were faster.

        The next version is above everything that this machine has seen, so that a store that was
        set back is mended by publishing. What the last snapshot revokes, and what was seen revoked
        here, engine or key, is revoked in the next, whatever state and store say: what was set back
        is not signed. Raises IntegrityError where the store lost the last snapshot and this machine
        does not know what it revoked, unless that loss is accepted, and where the clock is behind.
        """
        if (behind := self._clock_fault(trust.clock())) is not None:
            raise behind
        for attempt in range(_TRIES):
            current = _current(store)
            last = None if current is None else self._believed_or_none(current, store, trust)
            if not accept_loss:
                self._require_known(store, current, last)
            version = 1 + max(self._seen(store), 0 if last is None else last.version)
            following = self._carried_on(store, state(), last)
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
            self.memory.remember(self._name(store), snapshot)
            return snapshot
        raise AssertionError("the last attempt returns or raises")

    def _carried_on(
        self, store: BlobStore, state: RegistryState, last: Snapshot | None
    ) -> RegistryState:
        """Returns a state with all that was revoked before, as store and memory have it."""
        kept = self.memory.revoked(self._name(store)) or RegistryState()
        return state.carrying(kept if last is None else last.state.lasting().carrying(kept))

    def _require_known(
        self, store: BlobStore, current: Document | None, last: Snapshot | None
    ) -> None:
        """Raises IntegrityError unless all that was revoked before can be carried on."""
        seen = self.memory.seen(self._name(store))
        if self.memory.revoked(self._name(store)) is not None:
            return
        lost = current is not None or seen is not None
        if lost if last is None else seen is not None and is_behind(last, seen):
            raise IntegrityError(
                "the last snapshot is not in the store, and what it revoked is not known here",
                where=f"{store.url}/{SNAPSHOT}",
                actual="none that is believed" if last is None else f"version {last.version}",
                expected="one that a trusted keeper signed"
                if seen is None
                else f"version {seen.version} ({seen.digest[:19]}) or later",
                remedy="publish from a machine that has seen it, or put it back; if it is lost, "
                "revoke again what was revoked and enginekeeper snapshot publish --accept-loss",
            )

    def _clock_fault(self, now: datetime) -> IntegrityError | None:
        """Returns what is wrong with a clock that is behind what was seen here; None if it isn't.

        Clocks are set a little all the time, and a keeper's may be ahead of ours by as much.
        """
        seen = self.memory.time()
        if seen is None or now >= seen - CLOCK_SKEW:
            return None
        return IntegrityError(
            "the clock of this machine was set back: what has expired would look fresh",
            where=str(self.memory.path),
            actual=now.isoformat(timespec="seconds"),
            expected=f"not before {seen.isoformat(timespec='seconds')}, which was seen here",
            remedy="set the clock right; if it is right, and was ahead then: "
            "enginekeeper snapshot forget-time",
        )

    def _name(self, store: BlobStore) -> str:
        """Returns the name that the memory has a store under; earlier versions took the address."""
        self.memory.carry_over(store.url, store.origin)
        return store.origin

    def _seen(self, store: BlobStore) -> int:
        seen = self.memory.seen(self._name(store))
        return 0 if seen is None else seen.version

    def _believed(self, data: bytes, store: str, trust: Trust) -> Snapshot:
        """Returns a snapshot that keepers signed whom no snapshot revoked that was seen here.

        Who holds a key gives what it signs any date: a revoked one signs no new snapshot, since
        when ever it is revoked. Raises IntegrityError.
        """
        kept, seen = self.memory.revoked(store) or RegistryState(), self.memory.seen(store)
        revoked = kept.key_revocations
        if seen is None or seen.digest != str(digest_bytes(data)):
            revoked = tuple(replace(one, since=None) for one in revoked)
        return read_snapshot(data, trust.revoking(*revoked))

    def _believed_or_none(
        self, current: Document, store: BlobStore, trust: Trust
    ) -> Snapshot | None:
        try:
            return self._believed(current.data, self._name(store), trust)
        except IntegrityError:
            return None


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
