"""Whether an engine was quarantined or revoked: what its standing is, and what may follow.

Rules:

- the latest change counts; an engine without any is in good standing;
- a quarantine is an operator's: quick, without a key if there is none, and undone by a release;
- a revocation is final, and signed: nothing in the catalogue undoes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from registry.digests import Digest
from registry.errors import ConflictError, GateClosedError
from registry.types import Entity


class Standing(StrEnum):
    """How an engine's standing was changed."""

    QUARANTINED = "quarantined"
    RELEASED = "released"
    REVOKED = "revoked"


NOBODY = "unknown"
"""Who changed a standing by what lies beside an engine and cannot be believed."""


@dataclass(frozen=True)
class StandingChange(Entity):
    """One change of an engine's standing."""

    engine: Digest
    kind: Standing
    reason: str
    actor: str
    changed_at: datetime
    envelope: str | None = None
    """DSSE envelope of the statement; None for a quarantine or release of an earlier version."""

    def __str__(self) -> str:
        when = self.changed_at.isoformat(timespec="seconds")
        return f"{self.kind} by {self.actor} at {when}: {self.reason}"


def held_by(changes: Sequence[StandingChange]) -> StandingChange | None:
    """Returns what closes the gate on an engine, given its changes newest first, or None.

    A revocation counts wherever it stands: a release that somebody wrote past it does not.
    """
    revoked = next((one for one in changes if one.kind is Standing.REVOKED), None)
    if revoked is not None:
        return revoked
    latest = changes[0] if changes else None
    return None if latest is None or latest.kind is Standing.RELEASED else latest


def held_since(changes: Sequence[StandingChange]) -> datetime | None:
    """Returns since when `held_by` closes the gate without a break; None where it does not.

    An engine that was quarantined and then revoked is held since the quarantine.
    """
    since: datetime | None = None
    for age, one in enumerate(changes):
        if held_by(changes[age:]) is None:
            break
        since = one.changed_at
    return since


def check_may_follow(changes: Sequence[StandingChange], change: StandingChange) -> None:
    """Raises ConflictError for a change that cannot follow those that were made."""
    held = held_by(changes)
    if held is not None and held.kind is Standing.REVOKED:
        raise ConflictError(
            "the engine was revoked, and nothing follows that",
            where=f"engine {change.engine.short}",
            actual=held,
            expected=f"an engine that can be {change.kind}",
            remedy="build it again under another key, or fix what it was revoked for",
        )
    if change.kind is Standing.RELEASED and held is None:
        raise ConflictError(
            "the engine is not quarantined",
            where=f"engine {change.engine.short}",
            remedy=f"enginekeeper engine show {change.engine.short}",
        )


def held_error(engine: Digest, said: str) -> GateClosedError:
    """Says that an engine is held, by whom or why it cannot be told that it is not."""
    return GateClosedError(
        "the engine is held, or it cannot be told whether it is",
        where=f"engine {engine.short}",
        actual=said,
        expected="no quarantine and no revocation",
        remedy=f"enginekeeper engine show {engine.short}",
    )
