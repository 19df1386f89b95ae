"""Changes to remembered failures, within one unit of work of the catalogue."""

from __future__ import annotations

from sqlalchemy import delete, or_
from sqlalchemy.orm import Session

from registry.audit import Note
from registry.digests import Digest
from registry.failures.queries import FailureView
from registry.failures.tables import BuildFailureRow
from registry.failures.types import BuildFailure


class FailureDraft(FailureView):
    """The failures, to be changed in one unit of work."""

    def __init__(self, session: Session, note: Note) -> None:
        super().__init__(session)
        self._note = note

    def remember(self, failure: BuildFailure) -> None:
        """Records a failure in place of an earlier one of its key; what has expired goes."""
        row = BuildFailureRow
        over = or_(row.key == failure.key, row.expires_at <= failure.failed_at)
        self._session.execute(delete(row).where(over))
        self._session.add(
            row(
                key=failure.key, variant=failure.variant, toolchain=failure.toolchain,
                group=failure.group, pattern=failure.pattern, cause=failure.cause,
                remedy=failure.remedy, log=list(failure.log), simulated=failure.simulated,
                failed_at=failure.failed_at, expires_at=failure.expires_at, actor=failure.actor,
            )
        )  # fmt: skip
        self._session.flush()
        self._note("build failure", failure.key, {
            "variant": failure.variant, "group": failure.group, "simulated": failure.simulated,
            "expires": failure.expires_at.isoformat(),
        })  # fmt: skip

    def forget(self, key: Digest) -> bool:
        """Removes the failure of a key; says whether there was one."""
        done = self._session.execute(
            delete(BuildFailureRow).where(BuildFailureRow.key == key).returning(BuildFailureRow.id)
        )
        if done.first() is None:
            return False
        self._note("build failure forget", key, {})
        return True
