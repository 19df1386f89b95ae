"""The signed snapshot: what of the registry's state must not be set back unnoticed.

Rules:

- a keeper signs version, expiry and state: where channels point, which engines and keys are
  revoked, which waivers are in force; what one of them revokes, engine or key, all later ones do;
- the version only grows; the document moves by compare-and-swap, so that of two who publish at
  once one begins again with what the other wrote;
- a reader remembers the highest version it has seen of a store, and refuses an older one, another
  one of the same version, and one that has expired: that is a store that was set back or frozen;
- it believes no new one of a key that one of them revoked, whatever date that one bears, and the
  first that says the remembered one's key is revoked counts, whatever version a thief gave his.

What stays open: a reader that has never seen a snapshot believes the first, until it expires.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from securesystemslib.signer import Signer

from registry.attestations import PREDICATES, Statement, read_statement, sign, signed_at, timestamp
from registry.digests import Digest, canonical_json, digest_bytes
from registry.envelopes import Asked, require_signers, signed_payload
from registry.errors import IntegrityError, InvalidRecordError
from registry.queries import View
from registry.standing import Standing
from registry.trust import KeyRevocation, Purpose, Trust, TrustRoot, read_moment

SNAPSHOT = "snapshot/current.dsse.json"
"""The name of the document in the store."""
_ASKED = Asked(Purpose.SNAPSHOT, TrustRoot.PRODUCTION)


@dataclass(frozen=True, order=True)
class ChannelState:
    """Where a channel points."""

    channel: str
    model: str
    target: str
    engine: Digest


@dataclass(frozen=True)
class RegistryState:
    """What a snapshot vouches for."""

    channels: frozenset[ChannelState] = frozenset()
    revoked_engines: frozenset[Digest] = frozenset()
    key_revocations: tuple[KeyRevocation, ...] = ()
    waivers: frozenset[Digest] = frozenset()
    """In force when it was signed; one that is not here does not count."""

    def revoking(self, engines: Iterable[Digest]) -> RegistryState:
        """Returns the same state, in which these engines are revoked, too."""
        return replace(self, revoked_engines=self.revoked_engines.union(engines))

    def lasting(self) -> RegistryState:
        """Returns what no later snapshot may lack: the revocations of engines and of keys."""
        return RegistryState(
            revoked_engines=self.revoked_engines, key_revocations=self.key_revocations
        )

    def carrying(self, earlier: RegistryState) -> RegistryState:
        """Returns the same state, in which what an earlier one revokes is revoked, too."""
        keys = tuple(one for one in earlier.key_revocations if one not in self.key_revocations)
        carried = self.revoking(earlier.revoked_engines)
        return replace(carried, key_revocations=(*self.key_revocations, *keys))

    def as_dict(self) -> dict[str, Any]:
        """Returns the state as a JSON object."""
        return {
            "channels": [
                {"channel": one.channel, "model": one.model, "target": one.target,
                 "engine": str(one.engine)}
                for one in sorted(self.channels)
            ],
            "revokedEngines": sorted(str(one) for one in self.revoked_engines),
            "keyRevocations": [one.as_dict() for one in self.key_revocations],
            "waivers": sorted(str(one) for one in self.waivers),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> RegistryState:
        """Reads what `as_dict` wrote."""
        return cls(
            frozenset(
                ChannelState(
                    one["channel"], one["model"], one["target"], Digest.parse(one["engine"])
                )
                for one in document["channels"]
            ),
            frozenset(Digest.parse(one) for one in document["revokedEngines"]),
            tuple(KeyRevocation.from_dict(one) for one in document["keyRevocations"]),
            frozenset(Digest.parse(one) for one in document["waivers"]),
        )


@dataclass(frozen=True)
class Snapshot:
    """A signed state of the registry."""

    version: int
    issued_at: datetime
    expires_at: datetime
    state: RegistryState
    digest: Digest
    """Of the envelope."""

    signers: frozenset[str] = frozenset()
    """The ids of the keys that signed it and counted."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the snapshot as a JSON object."""
        return {
            "version": self.version,
            "issued_at": self.issued_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "digest": str(self.digest),
            **self.state.as_dict(),
        }


def state_of(view: View, trust: Trust) -> RegistryState:
    """Returns the state of a catalogue, and what the trust file says of keys.

    No waiver of one that was restored and not scrubbed since: it may have ended.
    """
    now, longest = trust.clock(), trust.longest_waiver
    waivers = () if view.unchecked() else view.waivers()
    return RegistryState(
        frozenset(
            ChannelState(one.channel, one.model_name, one.target, one.engine)
            for one in view.channels()
        ),
        frozenset(one for one, kind in view.held_engines().items() if kind is Standing.REVOKED),
        trust.revocations,
        frozenset(one.digest for one in waivers if one.state(now, longest) == "in force"),
    )


def sealed(
    state: RegistryState, version: int, issued_at: datetime, expires_at: datetime, *signers: Signer
) -> bytes:
    """Returns the signed snapshot of a state."""
    if expires_at <= issued_at:
        raise InvalidRecordError("a snapshot expires after it was issued", actual=expires_at)
    predicate = {
        "version": version,
        "issuedAt": timestamp(issued_at),
        "expiresAt": timestamp(expires_at),
        "state": state.as_dict(),
    }
    subject = digest_bytes(canonical_json(predicate["state"]))
    return sign(Statement(subject, Purpose.SNAPSHOT, predicate, "snapshot"), *signers)


def read_snapshot(envelope: bytes, trust: Trust) -> Snapshot:
    """Returns a snapshot that keepers signed; raises IntegrityError. Says nothing of its age."""
    payload, signers = signed_payload(envelope, trust, _ASKED)
    statement = read_statement(payload, Purpose.SNAPSHOT, PREDICATES[Purpose.SNAPSHOT])
    require_signers(signers, trust, _ASKED, signed_at(statement))
    try:
        return Snapshot(
            _version(statement.predicate["version"]),
            signed_at(statement),
            read_moment(statement.predicate["expiresAt"]),
            RegistryState.from_dict(statement.predicate["state"]),
            digest_bytes(envelope),
            frozenset(signers),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRecordError) as error:
        raise IntegrityError(f"the snapshot is malformed: {error}", where=SNAPSHOT) from error


def _version(number: object) -> int:
    if type(number) is not int or number < 1:
        raise ValueError(f"version {number!r}")
    return number
