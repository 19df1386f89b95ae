"""The audit log: who did what to what, and when; a chain in which nothing is changed unnoticed.

Rules:

- an entry is written in the unit of work of the change it tells of, as its last act: neither is
  kept without the other;
- an entry's digest is taken over all of it and over the digest of the entry before, so that who
  changes, removes or inserts one breaks the chain from there on;
- entries count from 1 without a gap, and no two follow the same one;
- a log whose end was cut off is a shorter whole log: only somebody who kept its last digest can
  tell (`verify_chain(..., known=...)`).

Example:
    with catalogue.read() as view:
        head = verify_chain(view.audit_entries())
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from registry.digests import Digest, canonical_json, digest_document
from registry.documents import read_object
from registry.errors import IntegrityError, InvalidRecordError

SCHEME = "ek-audit-v1"
FIRST = Digest(SCHEME, "0" * 64)
"""What the first entry follows."""


@dataclass(frozen=True)
class Event:
    """One change, as it is noted while it is made."""

    action: str
    """E.g. `engine publish`, `channel rollback`."""

    subject: str
    """What was changed: an id, or a channel's name."""

    details: Mapping[str, Any]
    """JSON values without fractions, so that they read back as they were hashed."""


class Note(Protocol):
    """Notes a change of a unit of work, for the log."""

    def __call__(
        self, action: str, subject: object, details: Mapping[str, Any], *, actor: str | None = None
    ) -> None:
        """Notes what was done to what, and by whom if not by whose unit of work it is."""
        ...


@dataclass(frozen=True)
class AuditEntry:
    """One entry of the log."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: str
    """Canonical JSON, hashed as it stands."""

    previous: Digest
    digest: Digest

    @classmethod
    def of(cls, event: Event, *, actor: str, at: datetime, after: AuditEntry | None) -> AuditEntry:
        """Makes the entry that follows another one, or the first."""
        number = 1 if after is None else after.number + 1
        previous = FIRST if after is None else after.digest
        details = canonical_json(event.details).decode()
        entry = cls(number, at, actor, event.action, event.subject, details, previous, FIRST)
        return cls(number, at, actor, event.action, event.subject, details, previous, entry.hash())

    def hash(self) -> Digest:
        """Returns the digest of everything the entry says."""
        return digest_document(
            {
                "number": self.number,
                "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
                "actor": self.actor,
                "action": self.action,
                "subject": self.subject,
                "details": self.details,
                "previous": str(self.previous),
            },
            SCHEME,
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the entry as a JSON object, its details read."""
        return {
            "number": self.number,
            "at": self.at.isoformat(),
            "actor": self.actor,
            "action": self.action,
            "subject": self.subject,
            "details": _read(self.details),
            "previous": str(self.previous),
            "digest": str(self.digest),
        }


def verify_chain(
    entries: Iterable[AuditEntry], *, known: Digest | None = None
) -> AuditEntry | None:
    """Returns the last entry of a whole log, or None for an empty one.

    Raises IntegrityError that names the first broken link, or says that an entry somebody knows
    of by its digest is not in the log.
    """
    last: AuditEntry | None = None
    seen = known is None
    for entry in entries:
        _check_link(entry, after=last)
        seen = seen or entry.digest == known
        last = entry
    if not seen:
        raise IntegrityError(
            "the audit log does not hold an entry that it is known to have had",
            where="audit log",
            actual="no entries" if last is None else f"entries 1 to {last.number}",
            expected=f"an entry {known}",
            remedy="its end was cut off, or the catalogue was restored from a backup: find out",
        )
    return last


def _check_link(entry: AuditEntry, *, after: AuditEntry | None) -> None:
    number = 1 if after is None else after.number + 1
    if entry.number != number:
        raise _broken(f"entry {number} is missing", entry, f"entry {entry.number}", number)
    previous = FIRST if after is None else after.digest
    if entry.previous != previous:
        raise _broken(
            f"entry {number} does not follow the one before", entry, entry.previous, previous
        )
    if entry.digest != entry.hash():
        raise _broken(f"entry {number} was changed", entry, entry.hash(), entry.digest)


def _broken(what: str, entry: AuditEntry, actual: object, expected: object) -> IntegrityError:
    return IntegrityError(
        f"the audit log is broken: {what}",
        where=f"audit log, {entry.at.isoformat(timespec='seconds')}: {entry.action}",
        actual=actual,
        expected=expected,
        remedy="somebody wrote to the catalogue past Enginekeeper: keep a copy, compare it with "
        "the last backup, and find out who",
    )


def _read(details: str) -> Any:  # noqa: ANN401 - any JSON value
    """Reads an entry's details; what is no JSON object any more is shown as it stands."""
    try:
        return read_object(details.encode(), where="audit log")
    except InvalidRecordError:
        return details
