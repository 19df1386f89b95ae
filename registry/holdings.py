"""What the catalogue holds, in short: what a sweep weighs, of everything at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry import layout
from registry.digests import Digest
from registry.models import (
    CheckpointRow,
    EngineRow,
    QualificationRow,
    ReferenceRow,
    StandingRow,
    VerdictRow,
    WaiverRow,
)
from registry.standing import NOBODY, Standing
from registry.timing.tables import TimingCacheRow
from registry.trust import Purpose
from registry.types import Holding

_OF_STANDING = {
    Standing.REVOKED: Purpose.REVOCATION,
    Standing.QUARANTINED: layout.QUARANTINE,
    Standing.RELEASED: layout.RELEASE,
}


class HoldingView:
    """What one state of the catalogue holds."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def engine_holdings(self, *, after: int = 0) -> list[Holding]:
        """Returns the engines recorded after a row in short, newest first.

        Of one key, newer ones take the place of older ones.
        """
        query = (
            select(
                EngineRow.id, EngineRow.digest, EngineRow.key_id, EngineRow.simulated,
                EngineRow.size, EngineRow.path, EngineRow.recorded_at, CheckpointRow.digest,
            )
            .outerjoin(CheckpointRow, EngineRow.checkpoint_id == CheckpointRow.id)
            .where(EngineRow.id > after)
            .order_by(EngineRow.id.desc())
        )  # fmt: skip
        rows = self._session.execute(query)
        return [
            Holding(row, digest, (key, simulated), size, path, recorded_at, checkpoint)
            for row, digest, key, simulated, size, path, recorded_at, checkpoint in rows
        ]

    def checkpoint_holdings(self, *, after: int = 0) -> list[Holding]:
        """Returns the checkpoints recorded after a row in short, newest first.

        Newer ones take the place of older ones of the same model, recipe, calibration and repairs.
        """
        query = select(CheckpointRow).where(CheckpointRow.id > after)
        rows = self._session.scalars(query.order_by(CheckpointRow.id.desc())).unique()
        return [
            Holding(
                row.id, row.digest,
                (row.model_id, row.recipe, row.calibration, row.simulated,
                 tuple((repair.name, repair.field) for repair in row.repairs)),
                row.size, row.path, row.recorded_at,
            )
            for row in rows
        ]  # fmt: skip

    def reference_holdings(self, *, after: int = 0) -> list[Holding]:
        """Returns the references recorded after a row in short, also those that are never read."""
        query = (
            select(
                ReferenceRow.id, ReferenceRow.digest, ReferenceRow.size, ReferenceRow.path,
                ReferenceRow.recorded_at,
            )
            .where(ReferenceRow.id > after)
            .order_by(ReferenceRow.id.desc())
        )  # fmt: skip
        return [
            Holding(row, digest, (digest,), size, path, recorded_at)
            for row, digest, size, path, recorded_at in self._session.execute(query)
        ]

    def place_of(self, engine: Digest) -> str | None:
        """Returns the folder of a recorded engine in the store; None for one that is not."""
        query = select(EngineRow.path).where(EngineRow.digest == engine)
        return self._session.scalars(query).one_or_none()

    def signed(self, engines: Collection[Digest]) -> Iterator[tuple[Digest, str, str]]:
        """Yields every envelope that is recorded of some engines, with its engine and its kind.

        What was found beside an engine and could not be believed is the store's own, and left out.
        """
        columns: tuple[
            tuple[type[VerdictRow | WaiverRow], str, InstrumentedAttribute[Any]], ...
        ] = (
            (VerdictRow, Purpose.VERDICT, VerdictRow.envelope),
            (VerdictRow, layout.SUMMARY, VerdictRow.vsa),
            (WaiverRow, Purpose.WAIVER, WaiverRow.envelope),
            (WaiverRow, layout.WAIVER_END, WaiverRow.ending),
        )
        for table, kind, column in columns:
            query: Select[Digest, str] = (
                select(EngineRow.digest, column)
                .join(EngineRow, table.engine_id == EngineRow.id)
                .where(EngineRow.digest.in_(engines), column.is_not(None))
            )
            for engine, said in self._session.execute(query):
                yield engine, kind, said
        changes = (
            select(EngineRow.digest, StandingRow.kind, StandingRow.envelope)
            .join(EngineRow, StandingRow.engine_id == EngineRow.id)
            .where(EngineRow.digest.in_(engines), StandingRow.actor != NOBODY)
        )
        for engine, change, envelope in self._session.execute(changes):
            if envelope is not None:
                yield engine, _OF_STANDING[Standing(change)], envelope

    def paths_taken(self, paths: Collection[str]) -> set[str]:
        """Returns those of some folders of the store that belong to a row."""
        found: set[str] = set()
        for table in (EngineRow, CheckpointRow, ReferenceRow, TimingCacheRow):
            found |= set(self._session.scalars(select(table.path).where(table.path.in_(paths))))
        return found

    def qualified_rows(self) -> dict[int, list[int]]:
        """Returns where engines are qualified now, by rows of engines and of environments."""
        latest = select(func.max(VerdictRow.id)).group_by(
            VerdictRow.engine_id, VerdictRow.environment_id
        )
        query = select(QualificationRow.engine_id, QualificationRow.environment_id)
        found: dict[int, list[int]] = {}
        rows = self._session.execute(query.where(QualificationRow.verdict_id.in_(latest)))
        for engine, environment in rows:
            found.setdefault(engine, []).append(environment)
        return found
