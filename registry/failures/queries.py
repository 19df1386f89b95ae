"""Questions about remembered failures; one that has expired is none."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.failures.tables import BuildFailureRow
from registry.failures.types import BuildFailure


class FailureView:
    """The failures in one state of the catalogue."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def standing(self, now: datetime) -> list[BuildFailure]:
        """Returns all that count at a time, the latest first."""
        rows = self._session.scalars(
            select(BuildFailureRow)
            .where(BuildFailureRow.expires_at > now)
            .order_by(BuildFailureRow.failed_at.desc(), BuildFailureRow.id.desc())
        )
        return [_to_failure(row) for row in rows]


def _to_failure(row: BuildFailureRow) -> BuildFailure:
    return BuildFailure(
        key=row.key,
        variant=row.variant,
        toolchain=row.toolchain,
        group=row.group,
        pattern=row.pattern,
        cause=row.cause,
        remedy=row.remedy,
        log=tuple(row.log),
        simulated=row.simulated,
        failed_at=row.failed_at,
        expires_at=row.expires_at,
        actor=row.actor,
    )
