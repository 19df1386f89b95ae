"""Rows to values, but for engines and verdicts, which `registry.reading` reads as columns."""

from __future__ import annotations

from registry.audit import AuditEntry
from registry.environments import environment_from_dict
from registry.models import (
    AuditRow,
    ChannelMoveRow,
    ChannelPositionRow,
    CheckpointRow,
    ModelRow,
    PlacementRow,
    ReferenceRow,
    StandingRow,
    WaiverRow,
)
from registry.standing import Standing, StandingChange
from registry.types import (
    ChannelMove,
    ChannelPosition,
    Checkpoint,
    Model,
    Placement,
    Reference,
    Repair,
    Waiver,
)


def to_model(row: ModelRow) -> Model:
    """Returns a model's row as a value."""
    return Model(row.digest, row.name, row.source, row.architecture, row.recorded_at)


def to_checkpoint(row: CheckpointRow) -> Checkpoint:
    """Returns a checkpoint's row as a value, with its repairs."""
    return Checkpoint(
        digest=row.digest,
        model=row.model.digest,
        model_name=row.model.name,
        recipe=row.recipe,
        calibration=row.calibration,
        repairs=tuple(
            Repair(repair.name, repair.field, repair.before, repair.after, repair.reason)
            for repair in row.repairs
        ),
        size=row.size,
        path=row.path,
        simulated=row.simulated,
        recorded_at=row.recorded_at,
    )


def to_reference(row: ReferenceRow) -> Reference:
    """Returns a reference's row as a value."""
    return Reference(
        digest=row.digest,
        key=row.key,
        model=row.model.digest,
        model_name=row.model.name,
        suite=row.suite,
        tokens=row.tokens,
        runtime=row.runtime,
        dtype=row.dtype,
        top_k=row.top_k,
        size=row.size,
        path=row.path,
        provenance=row.provenance,
        simulated=row.simulated,
        recorded_at=row.recorded_at,
    )


def to_waiver(row: WaiverRow) -> Waiver:
    """Returns a waiver's row as a value."""
    where = row.environment
    return Waiver(
        digest=row.digest,
        engine=row.engine.digest,
        rules=tuple(row.rules),
        environment=None if where is None else environment_from_dict(where.document),
        reason=row.reason,
        granted_by=row.granted_by,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        path=row.path,
        envelope=row.envelope,
        simulated=row.simulated,
        recorded_at=row.recorded_at,
        ending=row.ending,
    )


def to_position(row: ChannelPositionRow) -> ChannelPosition:
    """Returns a channel's position as a value."""
    return ChannelPosition(
        channel=row.channel.name,
        model_name=row.channel.model_name,
        target=row.target,
        engine=row.engine.digest,
        simulated=row.channel.simulated,
        moved_at=row.moved_at,
    )


def to_move(row: ChannelMoveRow) -> ChannelMove:
    """Returns one entry of a channel's history as a value; its engines may be swept by now."""
    engine = row.swept_engine if row.engine is None else row.engine.digest
    assert engine is not None  # noqa: S101 - a constraint of the table
    return ChannelMove(
        channel=row.channel.name,
        model_name=row.channel.model_name,
        target=row.target,
        engine=engine,
        previous=row.swept_previous if row.previous is None else row.previous.digest,
        environment=environment_from_dict(row.environment.document),
        actor=row.actor,
        moved_at=row.moved_at,
        rollback=row.rollback,
        cleared=row.cleared,
        simulated=None if row.engine is None else row.engine.simulated,
    )


def to_standing(row: StandingRow) -> StandingChange:
    """Returns one change of an engine's standing as a value."""
    return StandingChange(
        engine=row.engine.digest,
        kind=Standing(row.kind),
        reason=row.reason,
        actor=row.actor,
        changed_at=row.changed_at,
        envelope=row.envelope,
    )


def to_placement(row: PlacementRow) -> Placement:
    """Returns where an engine lies as a value."""
    return Placement(row.node, row.path, row.engine.digest, row.placed_at)


def to_audit_entry(row: AuditRow) -> AuditEntry:
    """Returns an entry of the audit log as a value."""
    return AuditEntry(
        number=row.id,
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        details=row.details,
        previous=row.previous,
        digest=row.digest,
    )
