"""Whose signature counts for what, and when: the policy that a trust file states.

Rules:

- a key is trusted for the purposes it lists and for nothing else: a builder's key cannot pass a
  verdict or vouch for a reference, a validator's key cannot vouch for a build;
- simulated artifacts have a trust root of their own: none of its keys counts for a real one;
- a key's id is computed from the key; an entry whose id is not its key's is refused;
- a statement counts if enough different keys signed it, each within its own window, at the time
  that the statement gives; a time that has not come yet is refused;
- what a revoked key signed does not count, or not from the time on that the revocation gives;
- a waiver counts for `max_waiver_days` at most: an exception without an end is a rule.

The window is held against the statement's own time because a key that has expired honestly must
not take years of good statements with it. So who steals a key can date back what it signs: that
is what a revocation without a time is for, which leaves nothing of the key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, Key, SSlibKey

from registry.digests import canonical_json, digest_bytes
from registry.errors import InvalidRecordError
from registry.keyless import KEYTYPE, SCHEME, keyless_key, keyval

CLOCK_SKEW = timedelta(minutes=5)
"""How far a signer's clock may run ahead of a reader's."""


WAIVER_DAYS = 90
"""How long a waiver counts at most, unless the trust file says otherwise: a quarter of a year."""


def utc_now() -> datetime:
    """Returns the time, with its zone."""
    return datetime.now(UTC)


class Purpose(StrEnum):
    """What a signature says."""

    BUILD = "build"
    """These bytes were built from these inputs."""

    VERDICT = "verdict"
    """These bytes were judged, with this result."""

    REFERENCE = "reference"
    """These are the outputs of this model, that engines are judged by."""

    WAIVER = "waiver"
    """This engine may run in spite of a rule of the gate, until then."""

    SNAPSHOT = "snapshot"
    """This is the registry's state: channels, waivers, what is revoked."""

    REVOCATION = "revocation"
    """This engine must not run any more."""


class TrustRoot(StrEnum):
    """Which world a key vouches for; the two never mix."""

    PRODUCTION = "production"
    SIMULATED = "simulated"

    @classmethod
    def of(cls, *, simulated: bool) -> TrustRoot:
        """Returns the root that artifacts of a kind are signed under."""
        return cls.SIMULATED if simulated else cls.PRODUCTION


@dataclass(frozen=True)
class TrustedKey:
    """A public key, and what it is trusted for."""

    keytype: str
    scheme: str
    public: str
    """The public key as securesystemslib writes it: hexadecimal for ed25519, PEM for others.

    Of a keyless signer it is identity and issuer, as canonical JSON.
    """
    purposes: frozenset[Purpose]
    root: TrustRoot
    not_before: datetime | None = None
    not_after: datetime | None = None
    """What it signs later is not believed; what it signed until then stays so."""
    trusted_root: str | None = None
    """Of a keyless signer: the file that vouches for a private instance; else the public one."""

    @classmethod
    def keyless(
        cls, identity: str, issuer: str, purposes: frozenset[Purpose], root: TrustRoot,
        trusted_root: str | None = None,
    ) -> TrustedKey:  # fmt: skip
        """Returns the entry of an identity that an issuer vouches for."""
        public = canonical_json({"identity": identity, "issuer": issuer}).decode()
        return cls(KEYTYPE, SCHEME, public, purposes, root, trusted_root=trusted_root)

    @cached_property
    def keyid(self) -> str:
        """The key's id, computed from the key."""
        named = {"keytype": self.keytype, "scheme": self.scheme, "keyval": self._keyval}
        return digest_bytes(canonical_json(named)).value

    @cached_property
    def material(self) -> bytes:
        """The key itself, however it is written: what two names for one key have in common."""
        try:
            if self.keytype == "ed25519":
                return bytes.fromhex(self.public)
            return load_pem_public_key(self.public.encode()).public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            )
        except (ValueError, UnsupportedAlgorithm):  # verifies nothing, and is no other key either
            return self.public.encode()

    @property
    def _keyval(self) -> dict[str, str]:
        return keyval(self.public) if self.keytype == KEYTYPE else {"public": self.public}

    def as_sslib(self) -> Key:
        """Returns the key in the form that verifies signatures."""
        if self.keytype == KEYTYPE:
            return keyless_key(self.keyid, self.public, self.trusted_root)
        return SSlibKey(self.keyid, self.keytype, self.scheme, {"public": self.public})

    def as_dict(self) -> dict[str, Any]:
        """Returns the entry as a JSON object."""
        window = {"not_before": self.not_before, "not_after": self.not_after}
        return {
            "keyid": self.keyid,
            "keytype": self.keytype,
            "scheme": self.scheme,
            **self._keyval,
            "purposes": sorted(self.purposes),
            "root": str(self.root),
            **({} if self.trusted_root is None else {"trusted_root": self.trusted_root}),
            **{name: one.isoformat() for name, one in window.items() if one is not None},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TrustedKey:
        """Reads what `as_dict` wrote; raises InvalidRecordError on anything else."""
        try:
            key = cls(
                document["keytype"], document["scheme"], _public(document),
                frozenset(Purpose(purpose) for purpose in document["purposes"]),
                TrustRoot(document["root"]),
                _moment(document.get("not_before")), _moment(document.get("not_after")),
                _trusted_root(document),
            )  # fmt: skip
            if (key.keytype, key.scheme) not in {*KEY_FOR_TYPE_AND_SCHEME, (KEYTYPE, SCHEME)}:
                raise InvalidRecordError("an unknown kind of key", actual=document)
            if document["keyid"] != key.keyid:
                raise InvalidRecordError(
                    "the id is not that of the key",
                    where="trust file", actual=document["keyid"], expected=key.keyid,
                )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRecordError(f"not a trusted key: {error}", where="trust file") from error
        return key


@dataclass(frozen=True)
class KeyRevocation:
    """Takes the trust from a key, whether it is listed or was taken out."""

    keyid: str
    reason: str
    revoked_at: datetime
    since: datetime | None = None
    """What it signed before still counts; None leaves nothing."""

    def covers(self, signed_at: datetime) -> bool:
        """Says whether a signature of that time is lost."""
        return self.since is None or signed_at >= self.since

    def as_dict(self) -> dict[str, Any]:
        """Returns the revocation as a JSON object."""
        return {
            "keyid": self.keyid,
            "reason": self.reason,
            "revoked_at": self.revoked_at.isoformat(),
            "since": None if self.since is None else self.since.isoformat(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> KeyRevocation:
        """Reads what `as_dict` wrote; raises InvalidRecordError on anything else."""
        try:
            keyid, reason = str(document["keyid"]), str(document["reason"])
            since = document["since"]
            return cls(
                keyid, reason, read_moment(document["revoked_at"]),
                None if since is None else read_moment(since),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRecordError(f"not a revocation: {error}", where="trust file") from error


@dataclass(frozen=True)
class Trust:
    """All trusted keys, and what it takes for a statement to count."""

    keys: tuple[TrustedKey, ...] = ()
    revocations: tuple[KeyRevocation, ...] = ()
    thresholds: Mapping[Purpose, int] = field(default_factory=dict)
    """How many different keys must have signed, for purposes that one is not enough for."""

    snapshot_required: bool = False
    """Whether nothing new is deployed without a fresh signed snapshot of the registry."""

    max_waiver_days: int = WAIVER_DAYS
    """How long a waiver counts at most, whatever its approvers signed."""

    clock: Callable[[], datetime] = field(default=utc_now, compare=False, repr=False)

    @property
    def longest_waiver(self) -> timedelta:
        """How long a waiver counts at most."""
        return timedelta(days=self.max_waiver_days)

    def keys_for(self, purpose: Purpose, root: TrustRoot) -> list[Key]:
        """Returns the public keys that may sign for a purpose under a root, at whatever time.

        A key of which a revocation has left nothing is none of them.
        """
        gone = {one.keyid for one in self.revocations if one.since is None}
        return [
            key.as_sslib()
            for key in self.keys
            if purpose in key.purposes and key.root is root and key.keyid not in gone
        ]

    def doubt(self, keyid: str, root: TrustRoot, signed_at: datetime) -> str | None:
        """Says why a key's signature of that time does not count; None if it does."""
        for revocation in self.revocations_of(keyid):
            if revocation.covers(signed_at):
                since = "" if revocation.since is None else f" since {revocation.since.isoformat()}"
                return f"revoked{since}: {revocation.reason}"
        entry = next((one for one in self.keys if (one.keyid, one.root) == (keyid, root)), None)
        if entry is None:
            return "not in the trust file"
        if entry.not_before is not None and signed_at < entry.not_before:
            return f"not valid before {entry.not_before.isoformat()}"
        if entry.not_after is not None and signed_at > entry.not_after:
            return f"not valid after {entry.not_after.isoformat()}"
        return None

    def revocations_of(self, keyid: str) -> list[KeyRevocation]:
        """Returns what was revoked of a key."""
        return [one for one in self.revocations if one.keyid == keyid]

    def is_future(self, moment: datetime) -> bool:
        """Says whether a time has not come yet, by more than clocks differ."""
        return moment > self.clock() + CLOCK_SKEW

    def threshold(self, purpose: Purpose) -> int:
        """Returns how many different keys must have signed for a purpose."""
        return self.thresholds.get(purpose, 1)

    def requiring(self, purpose: Purpose, many: int) -> Trust:
        """Returns the same trust, in which that many different keys must sign for a purpose."""
        others = {one: needed for one, needed in self.thresholds.items() if one is not purpose}
        return replace(self, thresholds=others if many == 1 else {**others, purpose: many})

    def signers_now(self, purpose: Purpose, root: TrustRoot) -> int:
        """Returns how many different keys can sign for a purpose what counts now."""
        now = self.clock()
        able = {key.keyid for key in self.keys_for(purpose, root)}
        able = {keyid for keyid in able if self.doubt(keyid, root, now) is None}
        return self.different(able)

    def different(self, keyids: Collection[str]) -> int:
        """Returns how many different keys these are the names of."""
        return len({key.material for key in self.keys if key.keyid in keyids})

    def purposes_of(self, keyids: Iterable[str]) -> list[str]:
        """Says for a person what keys are trusted for: `build (production)` and the like."""
        wanted = set(keyids)
        return [
            f"{purpose} ({key.root})"
            for key in self.keys
            if key.keyid in wanted
            for purpose in sorted(key.purposes)
        ]

    def with_key(self, key: TrustedKey) -> Trust:
        """Returns the same trust and one key more.

        A known key gets the new purposes, window and trusted root, as far as there are any.
        """
        for index, known in enumerate(self.keys):
            if known.keyid == key.keyid and known.root is key.root:
                merged = replace(
                    known,
                    purposes=known.purposes | key.purposes,
                    not_before=key.not_before or known.not_before,
                    not_after=key.not_after or known.not_after,
                    trusted_root=key.trusted_root or known.trusted_root,
                )
                return replace(self, keys=(*self.keys[:index], merged, *self.keys[index + 1 :]))
        return replace(self, keys=(*self.keys, key))

    def ending(self, keyids: Collection[str], when: datetime) -> Trust:
        """Returns the same trust, in which these keys sign nothing that counts after a time."""
        return replace(
            self,
            keys=tuple(
                replace(key, not_after=when)
                if key.keyid in keyids and (key.not_after is None or key.not_after > when)
                else key
                for key in self.keys
            ),
        )

    def revoking(self, *revocations: KeyRevocation) -> Trust:
        """Returns the same trust without these keys; a revocation that is there stays."""
        new = tuple(one for one in revocations if one not in self.revocations)
        return replace(self, revocations=(*self.revocations, *new)) if new else self


def _public(document: Mapping[str, Any]) -> str:
    """Returns the public half of an entry; raises KeyError, TypeError or ValueError."""
    if document["keytype"] != KEYTYPE:
        public: str = document["public"]
        return public
    named = canonical_json({name: document[name] for name in ("identity", "issuer")}).decode()
    keyval(named)
    return named


def _trusted_root(document: Mapping[str, Any]) -> str | None:
    """Returns where the trusted root of a keyless entry lies; raises ValueError."""
    found = document.get("trusted_root")
    if found is None:
        return None
    if document["keytype"] != KEYTYPE or not isinstance(found, str) or not found.startswith("/"):
        raise ValueError(f"trusted_root {found!r} is no absolute path of a keyless entry's file")
    return found


def _moment(text: object) -> datetime | None:
    return None if text is None else read_moment(text)


def read_moment(text: object) -> datetime:
    """Reads a time with its zone; raises ValueError, or TypeError for what is no text."""
    if not isinstance(text, str):
        raise TypeError(f"a time is text, not {text!r}")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the time {text!r} has no zone; write 2026-11-26T12:00:00Z")
    return moment
