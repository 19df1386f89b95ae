"""Waivers: who lets an engine run in spite of which rule, why, where, and until when.

Rules:

- an approver signs a waiver, with a key of that purpose; the gate asks for it by rule, engine and
  environment, and for nothing else;
- only rules that say "not proven" or "not known to work" can be waived: no signature that does not
  count, no revocation, no simulated engine on a real node, ever;
- one that names a verdict waives what that verdict says, and nothing that is said later;
- it ends at the time that was signed, by this machine's clock, or before that by the trust file's
  `max_waiver_days` (none that is longer is granted) or by a statement that an approver signed; a
  row that says it has ended is believed without one. The statement lies beside the engine, too,
  and ends the waiver again when the catalogue lost that;
- what ends is what was signed, in whatever envelope: the JSON around it is anybody's to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from registry.attestations import (
    PREDICATES,
    Statement,
    malformed,
    read_statement,
    timestamp,
    verify,
)
from registry.digests import Digest, digest_bytes
from registry.envelopes import (
    Asked,
    count_signers,
    read_envelope,
    signed_payload,
    statement_digest,
    told_by,
)
from registry.environments import Environment, environment_from_dict
from registry.errors import IntegrityError, InvalidRecordError, NotYetError
from registry.trust import Purpose, Trust, TrustRoot, read_moment
from registry.types import Engine, Waiver

WAIVABLE = (
    "stale-snapshot",
    "incompatible",
    "never-judged",
    "not-qualified-here",
    "verdict-failed",
    "verdict-inconclusive",
)
"""The rules of the gate that a waiver may name."""
ABOUT_VERDICT = frozenset({"verdict-failed", "verdict-inconclusive"})
"""Those that say what one verdict says; a waiver of them can be bound to that verdict."""
ENDING_TYPE = "urn:enginekeeper:waiver-end:v1"


class Waivable(Protocol):
    """As much of an engine as a waiver is held against."""

    @property
    def digest(self) -> Digest:
        """Names it."""

    @property
    def simulated(self) -> bool:
        """Whether a double made it."""


@dataclass(frozen=True)
class WaiverGrant:
    """What an approver says."""

    rules: tuple[str, ...]
    environment: Environment | None
    reason: str
    granted_by: str
    issued_at: datetime
    expires_at: datetime
    simulated: bool = False
    verdict: Digest | None = None
    """The only verdict that is waived, by its envelope; None for whatever is said later, too."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.rules) - set(WAIVABLE)):
            raise InvalidRecordError(
                f"cannot be waived: {', '.join(unknown)}", expected=f"some of {', '.join(WAIVABLE)}"
            )
        if not self.rules or not self.reason.strip() or self.expires_at <= self.issued_at:
            raise InvalidRecordError(
                "a waiver names a rule and a reason, and ends after it begins",
                actual=f"rules {list(self.rules)}, reason {self.reason!r}, "
                f"{self.issued_at.isoformat()} to {self.expires_at.isoformat()}",
            )
        if self.verdict is not None and not ABOUT_VERDICT.intersection(self.rules):
            raise InvalidRecordError(
                "a waiver that names a verdict waives what a verdict says",
                actual=", ".join(self.rules), expected=f"one of {', '.join(sorted(ABOUT_VERDICT))}",
            )  # fmt: skip

    def covers(self, rule: str, verdict: Digest | None) -> bool:
        """Says whether it waives a rule that was decided by a verdict, or by none."""
        bound = self.verdict is not None and rule in ABOUT_VERDICT
        return rule in self.rules and not (bound and verdict != self.verdict)

    def as_dict(self) -> dict[str, Any]:
        """Returns the predicate that is signed."""
        where = self.environment
        return {
            "rules": sorted(self.rules),
            "environment": None if where is None else where.as_dict(),
            "reason": self.reason,
            "grantedBy": self.granted_by,
            "issuedAt": timestamp(self.issued_at),
            "expiresAt": timestamp(self.expires_at),
            "simulated": self.simulated,
            "verdict": None if self.verdict is None else str(self.verdict),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> WaiverGrant:
        """Reads what `as_dict` wrote; raises InvalidRecordError on anything else.

        Waivers from before they could name a verdict name none.
        """
        where, verdict = document["environment"], document.get("verdict")
        return cls(
            rules=tuple(sorted(document["rules"])),
            environment=None if where is None else environment_from_dict(where),
            reason=document["reason"],
            granted_by=document["grantedBy"],
            issued_at=read_moment(document["issuedAt"]),
            expires_at=read_moment(document["expiresAt"]),
            simulated=document["simulated"],
            verdict=None if verdict is None else Digest.parse(verdict),
        )


def waiver_statement(engine: Digest, grant: WaiverGrant) -> Statement:
    """States that an engine may run in spite of rules of the gate."""
    return Statement(engine, Purpose.WAIVER, grant.as_dict())


def ending_statement(waiver: Waiver, *, reason: str, ended_by: str, at: datetime) -> Statement:
    """States that a waiver does not count any more."""
    predicate = {
        "waiver": str(waiver.digest), "statement": str(statement_digest(waiver.envelope.encode())),
        "reason": reason, "endedBy": ended_by, "issuedAt": timestamp(at),
        "simulated": waiver.simulated,
    }  # fmt: skip
    return Statement(waiver.engine, Purpose.WAIVER, predicate, predicate_type=ENDING_TYPE)


def verify_grant(envelope: bytes, engine: Waivable, trust: Trust) -> WaiverGrant:
    """Returns what approvers signed of exactly this engine; raises IntegrityError."""
    statement = verify(
        envelope, trust, Purpose.WAIVER, subject=engine.digest, simulated=engine.simulated
    )
    return _grant(statement)


def verify_ending(envelope: bytes, waiver: Waiver, trust: Trust) -> None:
    """Raises IntegrityError unless approvers signed that this waiver has ended, however wrapped.

    A statement from before it was named what the waiver says ends the one envelope it names.
    """
    said = verify(
        envelope, trust, Purpose.WAIVER,
        subject=waiver.engine, simulated=waiver.simulated, predicate_type=ENDING_TYPE,
    ).predicate  # fmt: skip
    actual, expected = _ended(said, waiver)
    if actual != str(expected):
        raise IntegrityError(
            "the statement ends another waiver",
            where=f"waiver {waiver.digest.short}", actual=actual, expected=expected,
        )  # fmt: skip


def _ended(said: Mapping[str, Any], waiver: Waiver) -> tuple[object, Digest]:
    """Returns what a statement ends, and what it would have to name to end a waiver."""
    if "statement" in said:
        return said["statement"], statement_digest(waiver.envelope.encode())
    return said.get("waiver"), waiver.digest


def require_short(grant: Waiver | WaiverGrant, trust: Trust) -> None:
    """Raises InvalidRecordError for a waiver that lasts longer than the trust file lets it count.

    To the second: that is how exactly times are signed.
    """
    latest = grant.issued_at.replace(microsecond=0) + trust.longest_waiver
    if grant.expires_at > latest:
        raise InvalidRecordError(
            f"a waiver is for {trust.max_waiver_days} days at most",
            where="until",
            actual=grant.expires_at.isoformat(timespec="seconds"),
            expected=f"{latest.isoformat(timespec='seconds')} at the latest",
            remedy="waive it until then, and look at it again before; the trust file says how "
            "long a waiver may be: enginekeeper trust waivers DAYS",
        )


def ended_together(waivers: Iterable[Waiver]) -> list[Waiver]:
    """Returns waivers in their order; of those that say the same, all are ended if one is."""
    found = list(waivers)
    endings = {
        (one.engine, told_by(one.envelope.encode())): one.ending
        for one in found
        if one.ending is not None
    }
    engines = {engine for engine, _ in endings}
    return [
        replace(one, ending=endings.get((one.engine, told_by(one.envelope.encode()))))
        if one.ending is None and one.engine in engines
        else one
        for one in found
    ]


def ending_among(envelopes: Iterable[bytes], waiver: Waiver, trust: Trust) -> str | None:
    """Returns the statement by which approvers ended a waiver; None where there is none.

    One that does not verify ends nothing: else whoever writes the store could end every waiver.
    Raises NotYetError for one of a time that has not come here: by this clock nothing can be told.
    One that ends another waiver is none of this, whatever clock its signer had.
    """
    for envelope in envelopes:
        try:
            verify_ending(envelope, waiver, trust)
        except NotYetError:
            actual, expected = _ended(_read_ending(envelope), waiver)
            if actual == str(expected):
                raise
        except IntegrityError:
            continue
        else:
            return envelope.decode()
    return None


def _read_ending(signed: bytes) -> Mapping[str, Any]:
    """Returns what an envelope says that was found to be signed by somebody trusted."""
    payload = read_envelope(signed).payload
    return read_statement(payload, Purpose.WAIVER, ENDING_TYPE).predicate


def disbelieved_ending(envelope: bytes, engine: Engine, trust: Trust) -> str | None:
    """Says why what lies there as the end of a waiver is none, of whichever; None if it is one.

    One of a time that has not come here is one: `ending_among` tells it of the waiver that it ends.
    """
    try:
        verify(
            envelope, trust, Purpose.WAIVER,
            subject=engine.digest, simulated=engine.simulated, predicate_type=ENDING_TYPE,
        )  # fmt: skip
    except NotYetError:
        return None
    except IntegrityError as error:
        return error.what
    return None


def verify_waiver(engine: Waivable, waiver: Waiver, trust: Trust) -> WaiverGrant:
    """Returns what was granted; raises IntegrityError unless the row says what was signed."""
    envelope = waiver.envelope.encode()
    grant = verify_grant(envelope, engine, trust)
    recorded = (waiver.engine, waiver.digest, *_facts(waiver))
    if recorded != (engine.digest, digest_bytes(envelope), *_facts(grant)):
        raise IntegrityError(
            "what the catalogue says is not what was signed",
            where=f"waiver {waiver.digest.short}",
            remedy="do not use it; find out who changed the catalogue, and restore it",
        )
    return grant


def counts(engine: Waivable, waiver: Waiver, trust: Trust) -> bool:
    """Says whether a waiver is what somebody granted who may; not whether it is in force."""
    try:
        verify_waiver(engine, waiver, trust)
    except IntegrityError:
        return False
    return True


@dataclass(frozen=True)
class WaiverDraft:
    """A waiver that approvers are still to sign."""

    engine: Digest
    grant: WaiverGrant
    signers: tuple[str, ...]
    """The keys trusted for waivers that signed it, whatever else the envelope names."""
    missing: int
    """How many different keys must still sign it; none where it can be recorded."""

    def require_about(self, engine: Engine) -> None:
        """Raises IntegrityError unless draft and engine are of one world, real or simulated."""
        if engine.simulated is not self.grant.simulated:
            raise IntegrityError(
                "the waiver and the engine do not agree on whether it is simulated",
                where=f"waiver of engine {engine.digest.short}",
                actual=self.grant.simulated,
                expected=engine.simulated,
                remedy="do not sign it; find out who made it",
            )


def read_draft(envelope: bytes, trust: Trust) -> WaiverDraft:
    """Returns what a waiver says that at least one approver signed, of the real world or the other.

    Not enough of them may have; it is for whoever is asked to sign it too.
    """
    faults = []
    for root in TrustRoot:
        try:
            return _draft(envelope, trust, Asked(Purpose.WAIVER, root))
        except IntegrityError as error:
            faults.append(error)
    raise faults[0]


def _draft(envelope: bytes, trust: Trust, asked: Asked) -> WaiverDraft:
    payload, signers = signed_payload(envelope, trust, asked)
    statement = read_statement(payload, Purpose.WAIVER, PREDICATES[Purpose.WAIVER])
    grant = _grant(statement)
    if TrustRoot.of(simulated=grant.simulated) is not asked.root:
        raise malformed(Purpose.WAIVER, f"simulated is {grant.simulated}, its signers {asked.root}")
    counting = count_signers(signers, trust, asked, grant.issued_at)
    missing = max(0, trust.threshold(Purpose.WAIVER) - counting)
    return WaiverDraft(statement.subject, grant, signers, missing)


def _grant(statement: Statement) -> WaiverGrant:
    try:
        return WaiverGrant.from_dict(statement.predicate)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRecordError) as error:
        raise malformed(statement.purpose, str(error)) from error


def _facts(one: Waiver | WaiverGrant) -> tuple[object, ...]:
    return (
        tuple(sorted(one.rules)), one.environment, one.reason, one.granted_by, one.issued_at,
        one.expires_at, one.simulated,
    )  # fmt: skip
