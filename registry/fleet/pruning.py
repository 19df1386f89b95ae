"""Forgets what the fleet was long ago: closed intervals of placements and profiles, in batches.

Rules:

- what is so now is never removed, however old it is: only what ended before the horizon goes;
- the horizon is in the audit log with the first batch, before anything else goes: a question about
  a time before it gets no half of an answer, and a prune that was interrupted is taken up by the
  next one;
- a batch is a unit of work of its own, so that reports of nodes never wait for the whole.

What nodes have in common (profiles, sets of engines) stays: a report may be pointing to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.fleet.tables import NodeHistoryRow, NodePlacementRow
from registry.models import OF_PRUNES, AuditRow

if TYPE_CHECKING:
    from registry.catalogue import Catalogue

BATCH = 10_000
"""Rows that go in one unit of work."""
PastTable = type[NodePlacementRow] | type[NodeHistoryRow]
TABLES: tuple[PastTable, ...] = (NodePlacementRow, NodeHistoryRow)


@dataclass(frozen=True)
class Past:
    """What ended before a time."""

    placements: int
    """Intervals in which an engine was on a node."""
    profiles: int
    """Intervals in which a node had a driver, GPUs and labels."""

    @property
    def rows(self) -> int:
        """Both."""
        return self.placements + self.profiles


def past(session: Session, before: datetime) -> Past:
    """Counts what ended before a time."""
    placements, profiles = (
        session.scalar(select(func.count()).select_from(table).where(table.until <= before)) or 0
        for table in TABLES
    )
    return Past(placements, profiles)


def horizon(session: Session) -> datetime | None:
    """Returns before which time nothing is known any more; None where nothing was pruned."""
    said = session.scalars(select(AuditRow.details).where(OF_PRUNES))
    found = [datetime.fromisoformat(json.loads(one)["before"]) for one in said]
    return max(found, default=None)


def remove_batch(
    session: Session, table: PastTable, before: datetime, after: int, limit: int
) -> tuple[int, int | None]:
    """Removes the next rows that ended before a time, behind one row.

    Returns how many went, and behind which row to go on; None where there are no more.
    """
    ended = (table.id > after) & (table.until <= before)
    batch = select(table.id).where(ended).order_by(table.id).limit(limit).subquery()
    found: tuple[int, int | None] = tuple(  # type: ignore[assignment]  # of two columns
        session.execute(select(func.count(), func.max(batch.c.id))).one()
    )
    count, last = found
    if last is None:
        return 0, None
    session.execute(delete(table).where(ended, table.id <= last))
    return count, last if count == limit else None


def prune(catalogue: Catalogue, before: datetime, *, actor: str, batch: int = BATCH) -> Past:
    """Forgets what ended before a time; returns what went. Raises ConflictError beside another."""
    with catalogue.alone("prune"):
        with catalogue.edit(actor=actor) as draft:
            draft.fleet.begin_to_prune(before)
        removed = [_removed(catalogue, table, before, actor, batch) for table in TABLES]
    return Past(*removed)


def _removed(
    catalogue: Catalogue, table: PastTable, before: datetime, actor: str, batch: int
) -> int:
    total, after = 0, 0
    while True:
        with catalogue.edit(actor=actor) as draft:
            count, following = draft.fleet.prune_batch(table, before, after, batch)
        total += count
        if following is None:
            return total
        after = following
