"""Questions to the catalogue, answered with values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.orm import contains_eager, lazyload

from registry.audit import AuditEntry
from registry.digests import Digest
from registry.entities import (
    to_audit_entry,
    to_checkpoint,
    to_model,
    to_move,
    to_placement,
    to_position,
    to_reference,
    to_standing,
    to_waiver,
)
from registry.environments import Environment, GpuEnvironment, environment_from_dict
from registry.errors import RecordNotFoundError
from registry.failures.queries import FailureView
from registry.filters import filtered, is_latest
from registry.finding import find, starting
from registry.fleet.queries import FleetView
from registry.holdings import HoldingView
from registry.keys import EngineKey
from registry.models import (
    AuditRow,
    ChannelMoveRow,
    ChannelPositionRow,
    ChannelRow,
    CheckpointRow,
    EngineRow,
    EnvironmentRow,
    KeyRow,
    ModelRow,
    PlacementRow,
    QualificationRow,
    ReferenceRow,
    RestorationRow,
    StandingRow,
    VerdictRow,
    WaiverRow,
)
from registry.reading import (
    ENGINE,
    ENGINES,
    POSITIONED,
    POSITIONED_FOR,
    RECORDED,
    VERDICTS,
    Recorded,
    to_engine,
    to_verdict,
)
from registry.standing import Standing, StandingChange
from registry.timing.queries import TimingView
from registry.types import (
    ChannelMove,
    ChannelPosition,
    Checkpoint,
    Engine,
    EngineFilter,
    Model,
    Place,
    Placement,
    Qualification,
    Reference,
    Restoration,
    Step,
    Verdict,
    VerdictDocument,
    Waiver,
)
from registry.waivers import ended_together
from registry.waves.queries import WaveView

_Named = TypeVar("_Named", Digest, int)
Identified = TypeVar("Identified", ModelRow, CheckpointRow, ReferenceRow, WaiverRow)

_OfEngine = TypeVar("_OfEngine", PlacementRow, StandingRow, WaiverRow)

_COMPARED = 5000  # keys; a hundred thousand would take seconds
_TOGETHER = 10_000  # engines that one query names; SQLite takes 32766 parameters
_ENGINE_STARTING = starting(ENGINES, EngineRow.digest)
_VERDICT_STARTING = starting(VERDICTS, VerdictRow.digest)


def _parts(named: Sequence[_Named]) -> Iterator[Sequence[_Named]]:
    """Yields digests or rows by as many as one query can name."""
    for start in range(0, len(named), _TOGETHER):
        yield named[start : start + _TOGETHER]


def _of_engines(table: type[_OfEngine]) -> Select[_OfEngine]:
    """Returns the query of rows about engines, of which the digest is read and nothing else.

    Not its key, its model and its statement: `lazyload` keeps them out of the join.
    """
    digest = contains_eager(table.engine).load_only(EngineRow.digest)
    return select(table).join(table.engine).options(digest.options(lazyload("*")))


class View(HoldingView):
    """One state of the catalogue."""

    @property
    def fleet(self) -> FleetView:
        """The nodes of this state: what they reported, and what should run on them."""
        return FleetView(self._session)

    @property
    def failures(self) -> FailureView:
        """The builds that failed, and are not to be tried again by the way."""
        return FailureView(self._session)

    @property
    def timing(self) -> TimingView:
        """The timing caches of builders."""
        return TimingView(self._session)

    @property
    def waves(self) -> WaveView:
        """The driver changes that were rolled over nodes, and those that are."""
        return WaveView(self._session)

    def engine(self, reference: str | Digest) -> Engine:
        """Returns the engine with an id or an unambiguous start of one (4 digits or more)."""
        return to_engine(find(self._rows_of(_ENGINE_STARTING), "engine", reference))

    def known_engine(self, digest: Digest) -> Engine | None:
        """Returns the engine with exactly this id, or None."""
        row = self._session.execute(ENGINE, {"engine": digest}).one_or_none()
        return None if row is None else to_engine(row)

    def known_engines(self, digests: Sequence[Digest]) -> dict[Digest, Engine]:
        """Returns those of some engines that are recorded."""
        found: dict[Digest, Engine] = {}
        for some in _parts(digests):
            rows = self._session.execute(ENGINES.where(EngineRow.digest.in_(some)))
            found.update((row.digest, to_engine(row)) for row in rows)
        return found

    def variants(self) -> set[str]:
        """Returns the variants that engines were built of."""
        return set(self._session.scalars(select(EngineRow.variant).distinct()))

    def engines(self, wanted: EngineFilter | None = None) -> list[Engine]:
        """Returns the engines that fit a filter, newest first."""
        query = ENGINES.order_by(EngineRow.id.desc())
        rows = self._session.execute(filtered(query, wanted or EngineFilter(), self._session))
        return [to_engine(row) for row in rows]

    def keys_near(self, wanted: EngineKey) -> list[EngineKey]:
        """Returns hard layers of keys that engines have, newest first: of the same weights, or any.

        At most as many as can be compared in a blink.
        """
        newest = select(KeyRow).order_by(KeyRow.id.desc()).limit(_COMPARED)
        keyed = select(EngineRow.key_id).join(EngineRow.model)
        same = ModelRow.digest == Digest.parse(str(wanted.hard["weights"]))
        for query in (newest.where(KeyRow.id.in_(keyed.where(same))), newest):
            if rows := self._session.scalars(query).all():
                return [EngineKey(row.hard) for row in rows]
        return []

    def checkpoint(self, reference: str | Digest) -> Checkpoint:
        """Returns the checkpoint with an id or an unambiguous start of one."""
        return to_checkpoint(self._find(CheckpointRow, "checkpoint", reference))

    def checkpoints(self, model: Digest | None = None) -> list[Checkpoint]:
        """Returns the checkpoints of one model, or all, newest first."""
        query = select(CheckpointRow).order_by(CheckpointRow.id.desc())
        if model is not None:
            weights = select(ModelRow.id).where(ModelRow.digest == model)
            query = query.where(CheckpointRow.model_id.in_(weights))
        return [to_checkpoint(row) for row in self._session.scalars(query).unique()]

    def model(self, reference: str | Digest) -> Model:
        """Returns the model with a digest or an unambiguous start of one."""
        return to_model(self._find(ModelRow, "model", reference))

    def models(self) -> list[Model]:
        """Returns all models, newest first."""
        rows = self._session.scalars(select(ModelRow).order_by(ModelRow.id.desc()))
        return [to_model(row) for row in rows]

    def references(
        self, model: Digest | None = None, *, key: Digest | None = None
    ) -> list[Reference]:
        """Returns the signed references of one model or of one key, or all, newest first."""
        signed = ReferenceRow.key.is_not(None)
        query = select(ReferenceRow).join(ReferenceRow.model).where(signed)
        if model is not None:
            query = query.where(ModelRow.digest == model)
        if key is not None:
            query = query.where(ReferenceRow.key == key)
        rows = self._session.scalars(query.order_by(ReferenceRow.id.desc())).unique()
        return [to_reference(row) for row in rows]

    def reference(self, reference: str | Digest) -> Reference:
        """Returns the signed reference with an id or an unambiguous start of one."""
        row = self._find(ReferenceRow, "reference", reference)
        if row.provenance is None:
            raise RecordNotFoundError(
                "the reference was recorded before references were signed, and is never read",
                actual=str(reference),
            )
        return to_reference(row)

    def known_reference(self, digest: Digest) -> Reference | None:
        """Returns the signed reference with exactly this id, or None."""
        query = select(ReferenceRow).where(
            ReferenceRow.digest == digest, ReferenceRow.provenance.is_not(None)
        )
        row = self._session.scalars(query).unique().one_or_none()
        return None if row is None else to_reference(row)

    def verdict(self, reference: str | Digest) -> Verdict:
        """Returns the verdict with an id or an unambiguous start of one."""
        return to_verdict(find(self._rows_of(_VERDICT_STARTING), "verdict", reference))

    def verdicts(self, engine: Digest) -> list[Verdict]:
        """Returns every verdict on an engine, newest first."""
        return self._verdicts(EngineRow.digest == engine)

    def latest_verdicts(self, engines: Sequence[Digest]) -> dict[Digest, Verdict]:
        """Returns the newest verdict on each of some engines, in whatever environment.

        An engine that was never judged is left out.
        """
        found: dict[Digest, Verdict] = {}
        for some in _parts(engines):
            wanted = EngineRow.digest.in_(some)
            latest = select(func.max(VerdictRow.id)).join(VerdictRow.engine).where(wanted)
            newest = VerdictRow.id.in_(latest.group_by(VerdictRow.engine_id))
            found.update((one.engine, one) for one in self._verdicts(newest))
        return found

    def verdicts_of_rows(self, rows: Sequence[int]) -> dict[int, Verdict]:
        """Returns the verdicts of rows that `fleet.verdicts_recorded` told; what is gone is not."""
        query = VERDICTS.add_columns(VerdictRow.id.label("row"))
        return {
            row.row: to_verdict(row)
            for some in _parts(rows)
            for row in self._session.execute(query.where(VerdictRow.id.in_(some)))
        }

    def _verdicts(self, wanted: ColumnElement[bool]) -> list[Verdict]:
        query = VERDICTS.where(wanted).order_by(VerdictRow.id.desc())
        return [to_verdict(row) for row in self._session.execute(query)]

    def verdict_documents(self) -> list[VerdictDocument]:
        """Returns the document of every verdict, newest first."""
        query = (
            select(VerdictRow.path, VerdictRow.document, VerdictRow.digest, EngineRow.digest)
            .join(EngineRow, VerdictRow.engine_id == EngineRow.id)
            .order_by(VerdictRow.id.desc())
        )
        return [VerdictDocument(*row) for row in self._session.execute(query)]

    def qualifications(self, engine: Digest | None = None) -> list[Qualification]:
        """Returns the qualifications of one engine or of all, newest first."""
        # The subquery is about each row's own verdict: one look at an index, whatever the size.
        current = select(VerdictRow.id).where(
            VerdictRow.id == QualificationRow.verdict_id, is_latest()
        )
        query = select(QualificationRow, current.exists())
        if engine is not None:
            engine_ids = select(EngineRow.id).where(EngineRow.digest == engine)
            query = query.where(QualificationRow.engine_id.in_(engine_ids))
        rows = self._session.execute(query.order_by(QualificationRow.id.desc())).unique()
        return [
            Qualification(
                engine=row.verdict.engine.digest,
                environment=environment_from_dict(row.verdict.environment.document),
                verdict=row.verdict.digest,
                current=bool(current),
                recorded_at=row.recorded_at,
            )
            for row, current in rows
        ]

    def recorded(self, engine: Digest) -> Recorded:
        """Returns all that the gate decides about an engine by; raises RecordNotFoundError.

        One statement, and one more for each of standing and waivers where there are any.
        """
        rows = self._session.execute(RECORDED, {"recorded": engine}).all()
        if not rows:
            raise RecordNotFoundError("there is no such engine", actual=engine)
        return Recorded(
            [to_verdict(row) for row in rows if row.digest is not None],
            self.standing(engine) if rows[0].changed else (),
            self.waivers(engine) if rows[0].waived else (),
            bool(rows[0].unchecked),
        )

    def waiver(self, reference: str | Digest) -> Waiver:
        """Returns the waiver with an id or an unambiguous start of one."""
        found = to_waiver(self._find(WaiverRow, "waiver", reference))
        return next(one for one in self.waivers(found.engine) if one.digest == found.digest)

    def waivers(self, engine: Digest | None = None) -> list[Waiver]:
        """Returns the waivers of one engine or of all, newest first, ended ones too.

        One that says what an ended one says has ended with it.
        """
        query = _of_engines(WaiverRow)
        if engine is not None:
            query = query.where(EngineRow.digest == engine)
        rows = self._session.scalars(query.order_by(WaiverRow.id.desc())).unique()
        return ended_together(to_waiver(row) for row in rows)

    def channels(self, model_name: str | None = None) -> list[ChannelPosition]:
        """Returns what every channel resolves to, by channel, model and target."""
        query = select(ChannelPositionRow).join(ChannelPositionRow.channel)
        if model_name is not None:
            query = query.where(ChannelRow.model_name == model_name)
        query = query.order_by(ChannelRow.name, ChannelRow.model_name, ChannelPositionRow.target)
        return [to_position(row) for row in self._session.scalars(query).unique()]

    def admitted(self, model_name: str) -> dict[Place, Environment]:
        """Returns what the gate was asked about at the latest move of each place of a model."""
        latest = (
            select(func.max(ChannelMoveRow.id))
            .join(ChannelMoveRow.channel)
            .where(ChannelRow.model_name == model_name)
            .group_by(ChannelMoveRow.channel_id, ChannelMoveRow.target)
        )
        query = (
            select(ChannelRow.name, ChannelMoveRow.target, EnvironmentRow.document)
            .join(ChannelRow, ChannelMoveRow.channel_id == ChannelRow.id)
            .join(EnvironmentRow, ChannelMoveRow.environment_id == EnvironmentRow.id)
            .where(ChannelMoveRow.id.in_(latest))
        )
        return {
            Place(row.name, model_name, row.target): environment_from_dict(row.document)
            for row in self._session.execute(query)
        }

    def positioned(
        self, channel: str, model_name: str, hardware: GpuEnvironment | None = None
    ) -> list[Engine]:
        """Returns what a channel resolves to on each target of a model, by target.

        With hardware, only engines whose keys were made for such a GPU and its CUDA runtime.
        """
        named, query = {"channel": channel, "named": model_name}, POSITIONED
        if hardware is not None:
            query = POSITIONED_FOR
            named |= {
                "product": hardware.product, "capability": hardware.compute_capability,
                "cuda": hardware.cuda_runtime,
            }  # fmt: skip
        return [to_engine(row) for row in self._session.execute(query, named)]

    def moves(self, channel: str, model_name: str) -> list[ChannelMove]:
        """Returns a channel's history, newest first."""
        query = (
            select(ChannelMoveRow)
            .join(ChannelMoveRow.channel)
            .where(ChannelRow.name == channel, ChannelRow.model_name == model_name)
            .order_by(ChannelMoveRow.id.desc())
        )
        return [to_move(row) for row in self._session.scalars(query).unique()]

    def held_engines(self) -> dict[Digest, Standing]:
        """Returns the engines that are quarantined or revoked."""
        rows = self._session.execute(
            select(EngineRow.digest, StandingRow.kind)
            .join(StandingRow, StandingRow.engine_id == EngineRow.id)
            .order_by(StandingRow.id)
        )
        held: dict[Digest, Standing] = {}
        for digest, kind in rows:
            if held.get(digest) is not Standing.REVOKED:
                held[digest] = Standing(kind)
        return {digest: kind for digest, kind in held.items() if kind is not Standing.RELEASED}

    def steps(self, model_name: str | None = None) -> dict[Place, list[Step]]:
        """Returns the moves of each place of the channels of one model, or of all, newest first."""
        query = (
            select(
                ChannelRow.name, ChannelRow.model_name, ChannelMoveRow.target,
                func.coalesce(EngineRow.digest, ChannelMoveRow.swept_engine),
                ChannelMoveRow.rollback, ChannelMoveRow.cleared, EngineRow.simulated,
            )
            .join(ChannelRow, ChannelMoveRow.channel_id == ChannelRow.id)
            .outerjoin(EngineRow, ChannelMoveRow.engine_id == EngineRow.id)
            .order_by(ChannelMoveRow.id.desc())
        )  # fmt: skip
        if model_name is not None:
            query = query.where(ChannelRow.model_name == model_name)
        found: dict[Place, list[Step]] = {}
        for channel, model, target, engine, rollback, cleared, simulated in self._session.execute(
            query
        ):
            step = Step(engine, rollback, cleared, simulated)
            found.setdefault(Place(channel, model, target), []).append(step)
        return found

    def standing(self, engine: Digest) -> list[StandingChange]:
        """Returns every change of an engine's standing, newest first."""
        query = _of_engines(StandingRow).where(EngineRow.digest == engine)
        rows = self._session.scalars(query.order_by(StandingRow.id.desc())).unique()
        return [to_standing(row) for row in rows]

    def standings(self, engines: Sequence[Digest]) -> dict[Digest, list[StandingChange]]:
        """Returns every change of standing of each of some engines, newest first."""
        found: dict[Digest, list[StandingChange]] = {digest: [] for digest in engines}
        for some in _parts(engines):
            query = _of_engines(StandingRow).where(EngineRow.digest.in_(some))
            rows = self._session.scalars(query.order_by(StandingRow.id.desc())).unique()
            for one in map(to_standing, rows):
                found[one.engine].append(one)
        return found

    def last_restoration(self) -> Restoration | None:
        """Returns the last time that the catalogue was put back from a backup, if it ever was."""
        query = select(RestorationRow).order_by(RestorationRow.id.desc()).limit(1)
        row = self._session.scalar(query)
        return None if row is None else Restoration(row.id, row.restored_at)

    def unchecked(self) -> frozenset[Restoration]:
        """Returns the restorations since which nobody has taken in what the catalogue may lack."""
        waiting = select(RestorationRow).where(RestorationRow.checked_at.is_(None))
        rows = self._session.scalars(waiting)
        return frozenset(Restoration(row.id, row.restored_at) for row in rows)

    def placements(self, engine: Digest | None = None) -> list[Placement]:
        """Returns where one engine lies, or any, by node and directory.

        By what `fetch` and `pull` recorded, and by what agents say of their nodes now.
        """
        query = _of_engines(PlacementRow)
        if engine is not None:
            query = query.where(EngineRow.digest == engine)
        recorded = [to_placement(row) for row in self._session.scalars(query).unique()]
        found = {
            (one.node, one.path, str(one.engine)): one
            for one in (*self.fleet.placed_now(engine), *recorded)
        }
        return [found[place] for place in sorted(found)]

    def audit_entries(self) -> Iterator[AuditEntry]:
        """Yields the audit log from its first entry on, a thousand in memory at a time."""
        rows = self._session.scalars(
            select(AuditRow).order_by(AuditRow.id).execution_options(yield_per=1000)
        )
        for row in rows:
            yield to_audit_entry(row)

    def newest_audit_entries(self, limit: int | None = None) -> Iterator[AuditEntry]:
        """Yields the audit log from its last entry back, at most so many of them."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        for row in self._session.scalars(query.execution_options(yield_per=1000)):
            yield to_audit_entry(row)

    def last_audit_entry(self) -> AuditEntry | None:
        """Returns the latest entry of the audit log, or None for an empty one."""
        row = self._session.scalar(select(AuditRow).order_by(AuditRow.id.desc()).limit(1))
        return None if row is None else to_audit_entry(row)

    def _rows_of(self, query: Select[Any]) -> Callable[[Mapping[str, str]], Sequence[Row[Any]]]:
        """Returns what executes a query with its parameters."""
        return lambda span: self._session.execute(query, span).all()

    def _find(self, kind: type[Identified], what: str, reference: str | Digest) -> Identified:
        """Returns the one row whose digest starts with a reference."""
        query = starting(select(kind), kind.digest)
        return find(lambda span: self._session.scalars(query, span).unique().all(), what, reference)
