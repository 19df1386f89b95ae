"""Changes to the catalogue, within one unit of work.

Rules:

- recording what is there already changes nothing and returns what is there;
- recording the same id with other facts is a conflict, never an overwrite;
- what was changed is noted for the audit log;
- whatever makes an artifact count holds off the sweep until its unit of work ends.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update

from registry.clearing import ClearingDraft
from registry.digests import Digest, digest_bytes
from registry.entities import (
    to_checkpoint,
    to_model,
    to_move,
    to_placement,
    to_reference,
    to_waiver,
)
from registry.environments import CpuEnvironment, Environment
from registry.errors import ConflictError, RecordNotFoundError
from registry.failures.records import FailureDraft
from registry.fleet.records import FleetDraft
from registry.models import (
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
    RepairRow,
    RestorationRow,
    StandingRow,
    VerdictRow,
    WaiverRow,
)
from registry.names import check_line
from registry.standing import Standing, StandingChange, check_may_follow
from registry.timing.records import TimingDraft
from registry.types import (
    ChannelMove,
    Checkpoint,
    Engine,
    Model,
    Placement,
    Reference,
    Restoration,
    Result,
    Verdict,
    Waiver,
)
from registry.waves.records import WaveDraft
from registry.writing import Writer

_STANDING = {
    Standing.QUARANTINED: "engine quarantine",
    Standing.RELEASED: "engine release",
    Standing.REVOKED: "engine revoke",
}


class Draft(Writer):
    """A view that also records; nothing is kept until its unit of work ends well."""

    @property
    def fleet(self) -> FleetDraft:
        """The nodes, to be changed in this unit of work."""
        return FleetDraft(self._session, self.note)

    @property
    def failures(self) -> FailureDraft:
        """The builds that failed, to be changed in this unit of work."""
        return FailureDraft(self._session, self.note)

    @property
    def clearing(self) -> ClearingDraft:
        """The channels, to be emptied in this unit of work."""
        return ClearingDraft(self._session, self.note)

    @property
    def timing(self) -> TimingDraft:
        """The timing caches, to be changed in this unit of work."""
        return TimingDraft(self._session, self.note, self._insert)

    @property
    def waves(self) -> WaveDraft:
        """The driver changes, to be changed in this unit of work."""
        return WaveDraft(self._session, self.note)

    def hold_engine(self, engine: Digest) -> None:
        """Lets nobody else judge an engine, or hold it, until this unit of work ends.

        Which verdict counts is decided by what is recorded: whoever looks at that and then adds to
        it must be alone. Raises RecordNotFoundError.
        """
        self.hold_sweep()  # in this order everywhere: a sweep takes rows while it lets nobody in
        self._held(engine)

    def add_model(self, model: Model) -> Model:
        """Records source weights; a model recorded before keeps its first name and source."""
        check_line(model.source, where="source of the model")
        check_line(model.architecture, where="architecture of the model")
        self._insert(
            ModelRow, digest=model.digest, name=model.name, source=model.source,
            architecture=model.architecture, recorded_at=model.recorded_at,
        )  # fmt: skip
        return to_model(self._row(ModelRow, model.digest))

    def add_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Records a checkpoint and its repairs."""
        self.hold_sweep()
        identity = self._insert(
            CheckpointRow, digest=checkpoint.digest, recipe=checkpoint.recipe,
            model_id=self._id(ModelRow, checkpoint.model), calibration=checkpoint.calibration,
            size=checkpoint.size, path=checkpoint.path, simulated=checkpoint.simulated,
            recorded_at=checkpoint.recorded_at,
        )  # fmt: skip
        self._recorded(identity, "checkpoint publish", checkpoint.digest, checkpoint.path)
        for position, repair in enumerate(checkpoint.repairs if identity is not None else ()):
            self._session.add(
                RepairRow(
                    checkpoint_id=identity, position=position, name=repair.name, field=repair.field,
                    before=repair.before, after=repair.after, reason=repair.reason,
                )
            )  # fmt: skip
        self._session.flush()
        found = to_checkpoint(self._row(CheckpointRow, checkpoint.digest))
        _check_same(
            f"checkpoint {found.digest.short}",
            (found.model, found.recipe, found.calibration, found.repairs),
            (checkpoint.model, checkpoint.recipe, checkpoint.calibration, checkpoint.repairs),
        )
        return found

    def add_engine(self, engine: Engine) -> Engine:
        """Records an engine and its key; the first provenance of the same bytes is kept."""
        self.hold_sweep()
        identity = self._insert(
            EngineRow, digest=engine.digest, key_id=self._key(engine), recipe=engine.recipe,
            model_id=self._id(ModelRow, engine.model),
            checkpoint_id=self._checkpoint_id(engine.checkpoint), target=engine.target,
            variant=engine.variant, soft=engine.key.soft, info=engine.key.info, size=engine.size,
            path=engine.path, provenance=engine.provenance, simulated=engine.simulated,
            recorded_at=engine.recorded_at,
        )  # fmt: skip
        self._recorded(identity, "engine publish", engine.digest, engine.path)
        found = self.engine(engine.digest)
        _check_same(
            f"engine {found.digest.short}",
            (found.key.digest(), found.model, found.recipe, found.target, found.simulated),
            (engine.key.digest(), engine.model, engine.recipe, engine.target, engine.simulated),
        )
        return found

    def add_reference(self, reference: Reference) -> Reference:
        """Records a reference; the first provenance of the same bytes is kept."""
        self.hold_sweep()
        identity = self._insert(
            ReferenceRow, digest=reference.digest, key=reference.key,
            model_id=self._id(ModelRow, reference.model), suite=reference.suite,
            tokens=reference.tokens, runtime=reference.runtime, dtype=reference.dtype,
            top_k=reference.top_k, size=reference.size, path=reference.path,
            provenance=reference.provenance, simulated=reference.simulated,
            recorded_at=reference.recorded_at,
        )  # fmt: skip
        self._recorded(identity, "reference publish", reference.digest, reference.path)
        found = to_reference(self._row(ReferenceRow, reference.digest))
        _check_same(f"reference {found.digest.short}", _facts(found), _facts(reference))
        return found

    def renew_provenance(self, artifact: Engine | Reference) -> None:
        """Replaces the statement of a recorded artifact, whose signer is not trusted any more.

        The caller has verified the new one, and that the old one does not count.
        """
        kind = EngineRow if isinstance(artifact, Engine) else ReferenceRow
        row = self._row(kind, artifact.digest)
        row.provenance = artifact.provenance
        if isinstance(artifact, Engine):
            row.soft, row.info = artifact.key.soft, artifact.key.info
        self._session.flush()
        statement = str(digest_bytes(artifact.provenance.encode()))
        self.note("statement renew", artifact.digest, {"statement": statement})

    def add_verdict(self, verdict: Verdict) -> Verdict:
        """Records a verdict, and a qualification if it passed; the same envelope twice is once.

        One that was taken in from beside its engine gets the summary that comes with it later.
        """
        self.hold_sweep()
        environment_id = self._environment_id(verdict.environment)
        engine_id = self._id(EngineRow, verdict.engine)
        identity = self._insert(
            VerdictRow, digest=verdict.digest, engine_id=engine_id, environment_id=environment_id,
            result=str(verdict.result), fidelity=verdict.fidelity, quality=verdict.quality,
            summary=verdict.summary, document=verdict.document, path=verdict.path,
            envelope=verdict.envelope, simulated=verdict.simulated, issued_at=verdict.issued_at,
            recorded_at=verdict.recorded_at, vsa=verdict.vsa,
        )  # fmt: skip
        if identity is not None:
            said = {"verdict": str(verdict.digest), "result": str(verdict.result),
                    "environment": str(verdict.environment)}  # fmt: skip
            self.note("verdict", verdict.engine, said)
        if identity is not None and verdict.result is Result.PASS:
            self._insert(
                QualificationRow, verdict_id=identity, engine_id=engine_id,
                environment_id=environment_id, recorded_at=verdict.recorded_at,
            )  # fmt: skip
        row = self._row(VerdictRow, verdict.digest)
        row.vsa = verdict.vsa if row.vsa is None else row.vsa
        self._session.flush()
        return self.verdict(verdict.digest)

    def add_waiver(self, waiver: Waiver) -> Waiver:
        """Records a waiver; the same envelope twice is once, and what ended stays ended."""
        self.hold_sweep()
        where = waiver.environment
        identity = self._insert(
            WaiverRow, digest=waiver.digest, engine_id=self._id(EngineRow, waiver.engine),
            environment_id=None if where is None else self._environment_id(where),
            rules=list(waiver.rules), reason=waiver.reason, granted_by=waiver.granted_by,
            issued_at=waiver.issued_at, expires_at=waiver.expires_at, path=waiver.path,
            envelope=waiver.envelope, simulated=waiver.simulated, recorded_at=waiver.recorded_at,
        )  # fmt: skip
        if identity is not None:
            said = {"waiver": str(waiver.digest), "rules": list(waiver.rules),
                    "reason": waiver.reason, "until": waiver.expires_at.isoformat()}  # fmt: skip
            self.note("waiver grant", waiver.engine, said, actor=waiver.granted_by)
        return self.waiver(waiver.digest)

    def end_waiver(self, waiver: Digest, envelope: str) -> Waiver:
        """Ends a waiver before its time; the first statement that ended it stays."""
        row = self._row(WaiverRow, waiver)
        if row.ending is None:
            row.ending = envelope
            self.note("waiver revoke", row.engine.digest, {"waiver": str(waiver)})
        self._session.flush()
        return to_waiver(row)

    def move_channel(self, move: ChannelMove, *, simulated: bool) -> ChannelMove:
        """Lets a channel resolve to another engine and adds the move to its history.

        Raises ConflictError unless the channel resolves to `move.previous` now, or when it
        belongs to the other world (simulated, real).
        """
        self.hold_sweep()
        channel = self._channel(move, simulated=simulated)
        position = self._session.scalar(
            select(ChannelPositionRow)
            .where(ChannelPositionRow.channel_id == channel.id)
            .where(ChannelPositionRow.target == move.target)
            # What this unit of work saw before it had the channel's lock may be old.
            .execution_options(populate_existing=True)
        )
        found = None if position is None else position.engine.digest
        if found != move.previous:
            raise ConflictError(
                f"channel {move.channel} was moved by somebody else",
                where=f"{move.model_name} on {move.target}",
                actual=found,
                expected=move.previous,
                remedy="look at the channel and decide again",
            )
        engine_id = self._id(EngineRow, move.engine)
        if position is None:
            position = ChannelPositionRow(channel_id=channel.id, target=move.target)
            self._session.add(position)
        previous_id = position.engine_id
        position.engine_id, position.moved_at = engine_id, move.moved_at
        row = ChannelMoveRow(
            channel_id=channel.id, target=move.target, engine_id=engine_id, previous_id=previous_id,
            environment_id=self._environment_id(move.environment), actor=move.actor,
            moved_at=move.moved_at, rollback=move.rollback,
        )  # fmt: skip
        self._session.add(row)
        self._session.flush()
        self.note(
            "channel rollback" if move.rollback else "channel set",
            f"{move.channel} of {move.model_name} on {move.target}",
            {"engine": str(move.engine), "previous": None if found is None else str(found)},
            actor=move.actor,
        )
        return to_move(row)

    def add_standing(self, change: StandingChange) -> StandingChange:
        """Records that an engine was quarantined, released or revoked.

        Raises ConflictError for an engine that was revoked before: nothing follows that.
        """
        self.hold_sweep()
        engine = self._held(change.engine)
        check_may_follow(self.standing(change.engine), change)
        self._session.add(
            StandingRow(
                engine_id=engine.id, kind=str(change.kind), reason=change.reason,
                actor=change.actor, envelope=change.envelope, changed_at=change.changed_at,
            )
        )  # fmt: skip
        self._session.flush()
        said = {"reason": change.reason}
        self.note(_STANDING[change.kind], change.engine, said, actor=change.actor)
        return change

    def _held(self, engine: Digest) -> EngineRow:
        # FOR NO KEY UPDATE: a foreign key on the row, of a move or a verdict, waits for nobody
        query = select(EngineRow).where(EngineRow.digest == engine)
        row = self._session.scalars(
            query.with_for_update(of=EngineRow, key_share=True)
        ).one_or_none()
        if row is None:
            raise RecordNotFoundError("there is no such engine", actual=engine)
        return row

    def end_restorations(self, checked: Collection[Restoration], at: datetime) -> None:
        """Records that what lies signed beside every engine was taken in; again does nothing.

        A restoration that is not among the checked ones came after whoever looked: it stays open.
        """
        for one in sorted(self.unchecked() & frozenset(checked)):
            row = self._session.get_one(RestorationRow, one.number)
            row.checked_at = at
            self.note("catalogue check", f"restoration {one.number}", {})

    def add_placement(self, placement: Placement) -> None:
        """Records that an engine lies on a node; the latest one of a directory counts."""
        self.hold_sweep()
        engine_id = self._id(EngineRow, placement.engine)
        inserted = self._insert(
            PlacementRow, node=placement.node, path=placement.path, engine_id=engine_id,
            placed_at=placement.placed_at,
        )  # fmt: skip
        if inserted is None:
            row = self._session.scalars(
                select(PlacementRow)
                .where(PlacementRow.node == placement.node, PlacementRow.path == placement.path)
                .with_for_update(of=PlacementRow)
            ).one()
            row.engine_id, row.placed_at = engine_id, placement.placed_at
        self.note("placement", placement.engine, {"node": placement.node, "path": placement.path})

    def forget_placement(self, node: str, path: str) -> Placement:
        """Removes the record of a directory; raises RecordNotFoundError."""
        query = select(PlacementRow).where(PlacementRow.node == node, PlacementRow.path == path)
        row = self._session.scalars(query).one_or_none()
        if row is None:
            raise RecordNotFoundError(
                "no engine is recorded to lie there",
                where=f"{node}: {path}",
                remedy="enginekeeper lineage ENGINE shows where one lies",
            )
        placement = to_placement(row)
        self._session.delete(row)
        self.note("placement forget", placement.engine, {"node": node, "path": path})
        return placement

    def remove_engine(self, digest: Digest) -> None:
        """Removes an engine and what is known of it, and its key if no other engine has it.

        A channel's history keeps its id.
        """
        row = self._row(EngineRow, digest)
        engine_id, key_id = row.id, row.key_id
        for column, kept in (
            (ChannelMoveRow.engine_id, ChannelMoveRow.swept_engine),
            (ChannelMoveRow.previous_id, ChannelMoveRow.swept_previous),
        ):
            self._session.execute(
                update(ChannelMoveRow)
                .where(column == engine_id)
                .values({column: None, kept: digest})
            )
        for table in (QualificationRow, VerdictRow, WaiverRow, StandingRow):
            self._session.execute(delete(table).where(table.engine_id == engine_id))
        self._session.execute(delete(EngineRow).where(EngineRow.id == engine_id))
        others = select(EngineRow.id).where(EngineRow.key_id == key_id)
        self._session.execute(delete(KeyRow).where(KeyRow.id == key_id, ~others.exists()))

    def remove_checkpoint(self, digest: Digest) -> None:
        """Removes a checkpoint and its repairs; a conflict while an engine names it."""
        checkpoint_id = self._id(CheckpointRow, digest)
        self._session.execute(delete(RepairRow).where(RepairRow.checkpoint_id == checkpoint_id))
        self._session.execute(delete(CheckpointRow).where(CheckpointRow.id == checkpoint_id))

    def _channel(self, move: ChannelMove, *, simulated: bool) -> ChannelRow:
        self._insert(
            ChannelRow, name=move.channel, model_name=move.model_name, simulated=simulated,
            recorded_at=move.moved_at,
        )  # fmt: skip
        query = (
            select(ChannelRow)
            .where(ChannelRow.name == move.channel, ChannelRow.model_name == move.model_name)
            .with_for_update()  # two that move one channel wait for each other
        )
        channel = self._session.scalars(query).one()
        if channel.simulated is not simulated and not self._is_empty(channel):
            raise ConflictError(
                "simulated and real engines do not share a channel",
                where=f"channel {move.channel} of {move.model_name}",
                actual=f"an engine with simulated = {simulated}",
                expected=f"simulated = {channel.simulated}",
                remedy="use a channel of its own for simulated engines, or empty this one: "
                f"enginekeeper channel clear {move.channel} --model {move.model_name}",
            )
        channel.simulated = simulated
        return channel

    def _is_empty(self, channel: ChannelRow) -> bool:
        anything = select(ChannelPositionRow.id).where(ChannelPositionRow.channel_id == channel.id)
        return self._session.scalar(anything.limit(1)) is None

    def _key(self, engine: Engine) -> int:
        hard = engine.key.hard
        self._insert(
            KeyRow, digest=engine.key.digest(), builder=hard["builder"], hard=hard,
            gpu_product=hard.get("gpu_product"), cuda_runtime=hard.get("cuda_runtime"),
            compute_capability=hard.get("compute_capability"), recorded_at=engine.recorded_at,
        )  # fmt: skip
        return self._id(KeyRow, engine.key.digest())

    def _checkpoint_id(self, digest: Digest | None) -> int | None:
        return None if digest is None else self._id(CheckpointRow, digest)

    def _environment_id(self, environment: Environment) -> int:
        columns: dict[str, Any] = {}
        if not isinstance(environment, CpuEnvironment):
            columns = {
                "product": environment.product,
                "compute_capability": environment.compute_capability,
                "cuda_runtime": environment.cuda_runtime,
                "cuda_driver": environment.cuda_driver,
                "driver": environment.driver,
            }
        self._insert(
            EnvironmentRow, digest=environment.digest(), kind=environment.kind,
            document=environment.as_dict(), **columns,
        )  # fmt: skip
        return self._id(EnvironmentRow, environment.digest())


def _facts(reference: Reference) -> tuple[object, ...]:
    one = reference
    return (one.key, one.model, one.suite, one.tokens, one.runtime, one.dtype, one.top_k)


def _check_same(what: str, found: tuple[object, ...], given: tuple[object, ...]) -> None:
    if found != given:
        raise ConflictError(
            "the same bytes are recorded with other facts",
            where=what,
            actual=[str(a) for a, b in zip(found, given, strict=True) if a != b],
            expected=[str(b) for a, b in zip(found, given, strict=True) if a != b],
        )
