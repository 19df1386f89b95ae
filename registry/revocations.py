"""Signed statements that an engine must not run any more, and those that lie beside it.

The statement lies with all else that is signed of the engine and is never swept. Whatever the
catalogue lost (restored from a backup, edited), it is taken in again before the engine gets
anywhere.

Example:
    envelope = sign(revocation(engine, Revocation("leaks memory", "anna", now)), signer)
    verify_revocation(engine, envelope, trust)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from registry.attestations import Statement, timestamp, verify
from registry.errors import IntegrityError
from registry.standing import NOBODY, Standing, StandingChange
from registry.trust import Purpose, Trust, read_moment
from registry.types import Engine


@dataclass(frozen=True)
class Revocation:
    """What somebody who may revoke says of an engine."""

    reason: str
    actor: str
    revoked_at: datetime


def revocation(engine: Engine, said: Revocation) -> Statement:
    """States that an engine must not run any more."""
    predicate = {
        "reason": said.reason,
        "revokedBy": said.actor,
        "revokedAt": timestamp(said.revoked_at),
        "simulated": engine.simulated,
    }
    return Statement(engine.digest, Purpose.REVOCATION, predicate)


def verify_revocation(engine: Engine, envelope: bytes, trust: Trust) -> Revocation:
    """Returns what a trusted key said of exactly this engine; raises IntegrityError."""
    statement = verify(
        envelope, trust, Purpose.REVOCATION, subject=engine.digest, simulated=engine.simulated
    )
    try:
        reason, actor = statement.predicate["reason"], statement.predicate["revokedBy"]
        revoked_at = read_moment(statement.predicate["revokedAt"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"the statement is malformed: {error}", where=f"revocation of {engine.digest.short}"
        ) from error
    return Revocation(str(reason), str(actor), revoked_at)


def found_beside(engine: Engine, envelope: bytes, trust: Trust, now: datetime) -> StandingChange:
    """Returns the change that an envelope found beside an engine stands for.

    One that does not verify holds the engine, too: it can only make things worse.
    """
    try:
        said = verify_revocation(engine, envelope, trust)
    except IntegrityError as error:
        said = Revocation(f"found beside the engine, {error.what}", NOBODY, now)
    return StandingChange(
        engine.digest, Standing.REVOKED, said.reason, said.actor, said.revoked_at,
        envelope.decode(errors="replace"),
    )  # fmt: skip
