"""How a unit of work writes: rows once, locks until its end, and what it did in the audit log.

Rules:

- of two that record at once one wins and the other finds it: no unique constraint is ever seen;
- what was changed is noted, and written to the audit log at the end of the unit of work.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.audit import AuditEntry, Event
from registry.digests import Digest
from registry.errors import RecordNotFoundError
from registry.models import AuditRow, Row
from registry.queries import View

UNNAMED = "unnamed"
"""Who changes something without saying who it is."""
_SWEEP, _LOG = "enginekeeper sweep", "enginekeeper audit log"
"""Names of PostgreSQL's advisory locks; on SQLite one unit of work at a time writes anyway."""


class Writer(View):
    """A view that can also write, and keeps account of it."""

    def __init__(self, session: Session, actor: str = UNNAMED) -> None:
        super().__init__(session)
        self._actor = actor
        self._noted: list[tuple[str, Event]] = []

    def note(
        self, action: str, subject: object, details: Mapping[str, Any], *, actor: str | None = None
    ) -> None:
        """Notes a change of this unit of work for the audit log."""
        self._noted.append((actor or self._actor, Event(action, str(subject), details)))

    def write_log(self) -> None:
        """Appends what was noted to the audit log; the last act of a unit of work.

        Writers wait here for each other, and each finds what the one before it has committed.
        """
        if not self._noted:
            return
        self._session.flush()
        self._lock(_LOG)
        last = self.last_audit_entry()
        for actor, event in self._noted:
            last = AuditEntry.of(event, actor=actor, at=datetime.now(UTC), after=last)
            self._session.add(
                AuditRow(
                    id=last.number, at=last.at, actor=last.actor, action=last.action,
                    subject=last.subject, details=last.details, previous=last.previous,
                    digest=last.digest,
                )
            )  # fmt: skip
            self._session.flush()
        self._noted.clear()

    def hold_sweep(self) -> None:
        """Lets no sweep begin until this unit of work ends; waits for one under way."""
        self._lock(_SWEEP, shared=True)

    def lock_for_sweep(self) -> None:
        """Waits until nobody makes an artifact count, and lets nobody until this ends."""
        self._lock(_SWEEP)

    def _recorded(self, identity: int | None, action: str, subject: Digest, path: str) -> None:
        """Notes a new row; recording what was there is no change."""
        if identity is not None:
            self.note(action, subject, {"path": path})

    def _lock(self, name: str, *, shared: bool = False) -> None:
        """Takes a lock that the end of the unit of work gives back.

        On SQLite that is the one of all writers, which a unit of work has not taken before its
        first statement.
        """
        self._session.connection()
        if self._session.get_bind().dialect.name == "postgresql":
            kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
            self._session.execute(text(f"SELECT {kind}(hashtext(:name))"), {"name": name})

    def _id(self, kind: type[Any], digest: Digest) -> int:
        return int(self._row(kind, digest).id)

    def _insert(self, table: type[Row], /, **values: Any) -> int | None:  # noqa: ANN401 - columns
        """Inserts a row and returns its id; None when a row with its unique columns is there."""
        dialect = postgresql if self._session.get_bind().dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
        inserted: int | None = self._session.scalar(statement.returning(table.__table__.c.id))
        return inserted

    def _row(self, kind: type[Any], digest: Digest) -> Any:  # noqa: ANN401 - a row of that kind
        row = (
            self._session.scalars(select(kind).where(kind.digest == digest)).unique().one_or_none()
        )
        if row is None:
            raise RecordNotFoundError(
                f"not in the catalogue: {kind.__tablename__}",
                actual=digest,
                remedy="record it first",
            )
        return row
