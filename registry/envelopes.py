"""DSSE envelopes: what was signed, by whom, and whether enough of them count.

Rules:

- an envelope counts only if enough keys that are trusted *for that purpose*, under the right trust
  root, signed it; until one has been found that did, its payload is bytes and is not parsed;
- each signature is then held against its key's window and revocations, at the time that the
  statement gives; a time that has not come yet is refused;
- two names for one public key are one signer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import Signer

from registry.digests import Digest, canonical_json, digest_bytes
from registry.documents import read_object
from registry.errors import IntegrityError, InvalidRecordError, NotYetError, WithdrawnError
from registry.trust import Purpose, Trust, TrustRoot

PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Asked:
    """What a signature is asked to count for."""

    purpose: Purpose
    root: TrustRoot


def seal(payload: bytes, *signers: Signer) -> bytes:
    """Returns the DSSE envelope of a payload as JSON, signed by each of the signers."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    return canonical_json(envelope.to_dict())


def countersign(envelope: bytes, signer: Signer) -> bytes:
    """Returns the same envelope with one signature more; the caller has read what it says."""
    found = read_envelope(envelope)
    found.sign(signer)
    return canonical_json(found.to_dict())


def signers_of(envelope: bytes) -> tuple[str, ...]:
    """Returns the ids of the keys an envelope says signed it; none for what is no envelope."""
    try:
        return tuple(sorted(read_envelope(envelope).signatures))
    except IntegrityError:
        return ()


def signed_payload(data: bytes, trust: Trust, asked: Asked) -> tuple[bytes, tuple[str, ...]]:
    """Returns an envelope's payload and the keys that signed it, each trusted for what is asked.

    Raises WithdrawnError when every one of its signers was revoked, IntegrityError when nobody
    who is trusted signed it. Says nothing about the time: `require_signers` does.
    """
    envelope = read_envelope(data)
    signers = []
    for key in trust.keys_for(asked.purpose, asked.root):
        try:
            envelope.verify([key], 1)
        except (VerificationError, ValueError):
            continue
        signers.append(key.keyid)
    if not signers:
        raise _not_signed(envelope, trust, asked)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise IntegrityError(
            "the envelope holds something else",
            actual=envelope.payload_type,
            expected=PAYLOAD_TYPE,
        )
    return envelope.payload, tuple(signers)


def require_signers(
    signers: tuple[str, ...], trust: Trust, asked: Asked, signed_at: datetime
) -> None:
    """Raises IntegrityError unless enough of the signers counted when the statement was signed.

    Raises WithdrawnError where trusted keys signed it, but not enough, or not any more: that is the
    policy's doing, and it is to be made or signed anew; NotYetError for what would count, but is
    of a time that is to come.
    """
    needed = trust.threshold(asked.purpose)
    if count_signers(signers, trust, asked, signed_at) >= needed:
        _require_past(signed_at, trust, asked)
        return
    doubts = {keyid: trust.doubt(keyid, asked.root, signed_at) for keyid in signers}
    if trust.different(signers) < needed:
        raise WithdrawnError(
            "not enough keys signed it",
            where=f"{asked.purpose} statement",
            actual=f"signed by {trust.different(signers)} of {needed}: {_short(signers)}",
            expected=f"{needed} different keys trusted for {asked.purpose} ({asked.root})",
            remedy="let others sign it too; the trust file says how many must",
        )
    raise _withdrawn(asked, {keyid: doubt for keyid, doubt in doubts.items() if doubt})


def _require_past(signed_at: datetime, trust: Trust, asked: Asked) -> None:
    if trust.is_future(signed_at):
        raise NotYetError(
            "the statement was signed at a time that has not come yet",
            where=f"{asked.purpose} statement",
            actual=signed_at.isoformat(),
            expected=f"not after {trust.clock().isoformat(timespec='seconds')}",
            remedy="set the clocks of this machine and of the signer right, and sign again",
        )


def count_signers(signers: tuple[str, ...], trust: Trust, asked: Asked, signed_at: datetime) -> int:
    """Returns how many different keys among the signers counted when the statement was signed."""
    counting = [key for key in signers if trust.doubt(key, asked.root, signed_at) is None]
    return trust.different(counting)


def statement_digest(data: bytes) -> Digest:
    """Names what an envelope's signatures cover: its payload; raises IntegrityError.

    The envelope around it is anybody's to write: in another order, with another space in it, with
    a signature more, it has another digest and says the same.
    """
    return digest_bytes(read_envelope(data).payload)


def told_by(data: bytes) -> Digest:
    """Names what an envelope says, to compare it: its payload, or itself where there is none."""
    try:
        return statement_digest(data)
    except IntegrityError:
        return digest_bytes(data)


def is_envelope(data: bytes) -> bool:
    """Says whether bytes are an envelope, signed or not, and so text that any catalogue holds."""
    try:
        read_envelope(data)
    except IntegrityError:
        return False
    return True


def read_envelope(data: bytes) -> Envelope:
    """Reads an envelope's outside; raises IntegrityError for what is none."""
    try:
        return Envelope.from_dict(read_object(data, where="envelope"))
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        FormatError,
        InvalidRecordError,
    ) as error:
        raise IntegrityError(f"not a DSSE envelope: {error}", where="envelope") from error


def _not_signed(envelope: Envelope, trust: Trust, asked: Asked) -> IntegrityError:
    signers = sorted(envelope.signatures)
    revoked = {
        keyid: f"revoked: {found[-1].reason}"
        for keyid in signers
        if (found := [one for one in trust.revocations_of(keyid) if one.since is None])
    }
    if revoked and len(revoked) == len(signers):
        return _withdrawn(asked, revoked)
    return IntegrityError(
        "the signature does not count",
        where=f"{asked.purpose} statement",
        actual=f"signed by {_short(tuple(signers)) or 'nobody'}, "
        f"trusted for {', '.join(trust.purposes_of(signers)) or 'nothing'}",
        expected=f"an unaltered statement, signed by a key trusted for {asked.purpose} "
        f"({asked.root})",
        remedy="do not load the artifact; if the signer is to be trusted, add its key, "
        "and if it was, say so: enginekeeper key revoke",
    )


def _withdrawn(asked: Asked, doubts: Mapping[str, str]) -> WithdrawnError:
    return WithdrawnError(
        "the signature does not count any more",
        where=f"{asked.purpose} statement",
        actual="; ".join(f"key {keyid[:12]}: {doubt}" for keyid, doubt in sorted(doubts.items())),
        expected=f"a key that was trusted for {asked.purpose} ({asked.root}) when it signed",
        remedy="do not load the artifact; have it made and signed anew: enginekeeper build",
    )


def _short(signers: tuple[str, ...]) -> str:
    return ", ".join(key[:12] for key in signers)
