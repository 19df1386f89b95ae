"""The catalogue's tables. Rows never leave the registry: `registry.types` has what does.

Rules:

- rows are added, hardly ever changed: only a channel's position moves, and its history keeps
  every move, also of an engine that was swept since;
- whatever changes is noted in the audit log, in the same unit of work;
- `id` orders rows by when they were recorded; the times beside are for people, since clocks lie;
- what is signed is kept as signed (the envelope); columns beside it are an index over it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from registry.digests import Digest

REVISION = "a1c87be05d93"
"""The migration these tables belong to; a test holds it equal to the newest one."""

Json = JSON().with_variant(JSONB(), "postgresql")


class DigestText(TypeDecorator[Digest]):
    """A digest as `scheme:hex`."""

    impl = String(100)
    cache_ok = True

    def process_bind_param(self, value: Digest | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Writes the digest as text."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Digest | None:  # noqa: ARG002
        """Reads the digest back."""
        return None if value is None else Digest.parse(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; SQLite forgets the zone, so everything is kept in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Writes the time in UTC; refuses one without a zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time without a time zone: {value}")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Reads the time back with its zone."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Leaves what PostgreSQL answers as it is: it has its zone."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)


Id = Annotated[int, mapped_column(primary_key=True)]
UniqueDigest = Annotated[Digest, mapped_column(DigestText, unique=True)]
Name = Annotated[str, mapped_column(String(200))]
Bytes = Annotated[int, mapped_column(BigInteger, comment="bytes of all files")]
StorePath = Annotated[str, mapped_column(Text, comment="where its documents lie in the store")]
Moment = Annotated[datetime, mapped_column(UtcDateTime, server_default=func.now())]
Simulated = Annotated[
    bool, mapped_column(comment="made by a double: signed under its own trust root")
]


class Row(DeclarativeBase):
    """The root of all tables."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class ModelRow(Row):
    """Source weights."""

    __tablename__ = "models"

    id: Mapped[Id]
    digest: Mapped[UniqueDigest]
    name: Mapped[Name] = mapped_column(index=True)
    source: Mapped[str] = mapped_column(Text, comment="repository and revision, directory, package")
    architecture: Mapped[Name]
    recorded_at: Mapped[Moment]


class CheckpointRow(Row):
    """Quantized checkpoints."""

    __tablename__ = "checkpoints"
    __table_args__ = (CheckConstraint("size >= 0", name="size"),)

    id: Mapped[Id]
    digest: Mapped[UniqueDigest] = mapped_column(comment="of the manifest")
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    recipe: Mapped[Name]
    calibration: Mapped[Digest | None] = mapped_column(DigestText)
    size: Mapped[Bytes]
    path: Mapped[StorePath]
    simulated: Mapped[Simulated]
    recorded_at: Mapped[Moment]

    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True)
    repairs: Mapped[list[RepairRow]] = relationship(
        lazy="selectin", order_by="RepairRow.position", cascade="all, delete-orphan"
    )


class RepairRow(Row):
    """Explicit changes to checkpoints that their exporter had got wrong."""

    __tablename__ = "repairs"
    __table_args__ = (UniqueConstraint("checkpoint_id", "position"),)

    id: Mapped[Id]
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"))
    position: Mapped[int] = mapped_column(comment="in the order they were made")
    name: Mapped[Name]
    field: Mapped[str] = mapped_column(
        Text, comment="what was changed, e.g. config.json: rotary_base"
    )
    before: Mapped[Any] = mapped_column(Json, nullable=True)
    after: Mapped[Any] = mapped_column(Json, nullable=True)
    reason: Mapped[str] = mapped_column(Text)


class KeyRow(Row):
    """Hard layers of engine keys; the columns beside `hard` are copies to search by."""

    __tablename__ = "keys"

    id: Mapped[Id]
    digest: Mapped[UniqueDigest]
    builder: Mapped[Name]
    gpu_product: Mapped[str | None] = mapped_column(String(200))
    compute_capability: Mapped[str | None] = mapped_column(String(20), index=True)
    cuda_runtime: Mapped[str | None] = mapped_column(String(20), index=True)
    hard: Mapped[dict[str, Any]] = mapped_column(Json)
    recorded_at: Mapped[Moment]


class EngineRow(Row):
    """Engines: contents built for a key; a key may hold several."""

    __tablename__ = "engines"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size"),
        Index(None, "model_id", "recipe", "target"),
    )

    id: Mapped[Id]
    digest: Mapped[UniqueDigest] = mapped_column(comment="of the manifest: the engine's id")
    key_id: Mapped[int] = mapped_column(ForeignKey("keys.id"), index=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    recipe: Mapped[Name]
    target: Mapped[Name]
    variant: Mapped[Name] = mapped_column(index=True)
    soft: Mapped[dict[str, Any]] = mapped_column(Json, comment="soft layer of the key")
    info: Mapped[dict[str, Any]] = mapped_column(Json, comment="info layer of the key")
    size: Mapped[Bytes]
    path: Mapped[StorePath]
    provenance: Mapped[str] = mapped_column(Text, comment="DSSE envelope of the build statement")
    simulated: Mapped[Simulated]
    recorded_at: Mapped[Moment]

    key: Mapped[KeyRow] = relationship(lazy="joined", innerjoin=True)
    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True)
    checkpoint: Mapped[CheckpointRow | None] = relationship(lazy="selectin")


class ReferenceRow(Row):
    """Recorded outputs of source models on probe suites; a key may hold several.

    Rows from before references were signed have no key; they are kept and never read.
    """

    __tablename__ = "reference_runs"  # `references` is a word of SQL
    __table_args__ = (CheckConstraint("size >= 0", name="size"),)

    id: Mapped[Id]
    digest: Mapped[UniqueDigest] = mapped_column(comment="of the manifest")
    key: Mapped[Digest] = mapped_column(
        DigestText, nullable=True, index=True, comment="of all it is made from; found by this"
    )
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    suite: Mapped[Digest] = mapped_column(DigestText, comment="of the probe suite")
    tokens: Mapped[Digest] = mapped_column(
        DigestText, nullable=True, comment="of the suite in the model's tokens"
    )
    runtime: Mapped[Name] = mapped_column(comment="what produced it, with its version")
    dtype: Mapped[Name]
    top_k: Mapped[int] = mapped_column(nullable=True, comment="best tokens kept at each position")
    size: Mapped[Bytes]
    path: Mapped[StorePath]
    provenance: Mapped[str] = mapped_column(
        Text, nullable=True, comment="DSSE envelope of the reference statement"
    )
    simulated: Mapped[Simulated]
    recorded_at: Mapped[Moment]

    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True)


class EnvironmentRow(Row):
    """Where engines are judged; the columns beside `document` are copies to search by."""

    __tablename__ = "environments"
    __table_args__ = (CheckConstraint("kind IN ('gpu', 'cpu')", name="kind"),)

    id: Mapped[Id]
    digest: Mapped[UniqueDigest]
    kind: Mapped[str] = mapped_column(String(10))
    product: Mapped[str | None] = mapped_column(String(200))
    compute_capability: Mapped[str | None] = mapped_column(String(20))
    cuda_runtime: Mapped[str | None] = mapped_column(String(20))
    cuda_driver: Mapped[str | None] = mapped_column(String(20))
    driver: Mapped[str | None] = mapped_column(String(40), index=True)
    document: Mapped[dict[str, Any]] = mapped_column(Json)


class VerdictRow(Row):
    """Signed judgements; of one engine in one environment the one with the highest id counts."""

    __tablename__ = "verdicts"
    __table_args__ = (
        CheckConstraint("result IN ('pass', 'fail', 'inconclusive')", name="result"),
        Index(None, "engine_id", "environment_id"),
    )

    id: Mapped[Id]
    digest: Mapped[UniqueDigest] = mapped_column(comment="of the envelope")
    engine_id: Mapped[int] = mapped_column(ForeignKey("engines.id"))
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"), index=True)
    result: Mapped[str] = mapped_column(String(20))
    fidelity: Mapped[str | None] = mapped_column(String(20))
    quality: Mapped[str | None] = mapped_column(String(20))
    summary: Mapped[str] = mapped_column(Text)
    document: Mapped[Digest] = mapped_column(DigestText, comment="of the verdict document")
    path: Mapped[StorePath]
    envelope: Mapped[str] = mapped_column(Text, comment="DSSE envelope of the verdict statement")
    vsa: Mapped[str | None] = mapped_column(
        Text, comment="DSSE envelope of the verification summary, since there are any"
    )
    simulated: Mapped[Simulated]
    issued_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="as signed by the validator")
    recorded_at: Mapped[Moment]

    engine: Mapped[EngineRow] = relationship(lazy="joined", innerjoin=True)
    environment: Mapped[EnvironmentRow] = relationship(lazy="joined", innerjoin=True)


class QualificationRow(Row):
    """Passing verdicts; one counts as long as no later verdict on the same pair exists."""

    __tablename__ = "qualifications"
    __table_args__ = (Index(None, "engine_id", "environment_id"),)

    id: Mapped[Id]
    verdict_id: Mapped[int] = mapped_column(ForeignKey("verdicts.id"), unique=True)
    engine_id: Mapped[int] = mapped_column(ForeignKey("engines.id"))
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"), index=True)
    recorded_at: Mapped[Moment]

    verdict: Mapped[VerdictRow] = relationship(lazy="joined", innerjoin=True)


class WaiverRow(Row):
    """Signed permissions to run engines in spite of rules of the gate; only ever ended."""

    __tablename__ = "waivers"

    id: Mapped[Id]
    digest: Mapped[UniqueDigest] = mapped_column(comment="of the envelope")
    engine_id: Mapped[int] = mapped_column(ForeignKey("engines.id"), index=True)
    environment_id: Mapped[int | None] = mapped_column(
        ForeignKey("environments.id"), comment="where it counts; null for everywhere"
    )
    rules: Mapped[list[str]] = mapped_column(Json, comment="of the gate")
    reason: Mapped[str] = mapped_column(Text)
    granted_by: Mapped[Name]
    issued_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="as signed by the approver")
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="as signed by the approver")
    path: Mapped[StorePath]
    envelope: Mapped[str] = mapped_column(Text, comment="DSSE envelope of the waiver")
    ending: Mapped[str | None] = mapped_column(
        Text, comment="DSSE envelope of the statement that ended it before its time"
    )
    simulated: Mapped[Simulated]
    recorded_at: Mapped[Moment]

    engine: Mapped[EngineRow] = relationship(lazy="joined", innerjoin=True)
    environment: Mapped[EnvironmentRow | None] = relationship(lazy="joined")


class ChannelRow(Row):
    """Names that resolve, per model and target, to one engine.

    One that nothing is in takes the world, real or simulated, of the next engine.
    """

    __tablename__ = "channels"
    __table_args__ = (UniqueConstraint("name", "model_name"),)

    id: Mapped[Id]
    name: Mapped[Name]
    model_name: Mapped[Name]
    simulated: Mapped[Simulated]
    recorded_at: Mapped[Moment]


class ChannelPositionRow(Row):
    """What a channel resolves to now."""

    __tablename__ = "channel_positions"
    __table_args__ = (UniqueConstraint("channel_id", "target"),)

    id: Mapped[Id]
    channel_id: Mapped[int] = mapped_column(ForeignKey("channels.id"))
    target: Mapped[Name]
    engine_id: Mapped[int] = mapped_column(ForeignKey("engines.id"), index=True)
    moved_at: Mapped[Moment]

    channel: Mapped[ChannelRow] = relationship(lazy="joined", innerjoin=True)
    engine: Mapped[EngineRow] = relationship(lazy="joined", innerjoin=True)


class ChannelMoveRow(Row):
    """Every change of what a channel resolves to; never removed."""

    __tablename__ = "channel_moves"
    __table_args__ = (
        Index(None, "channel_id", "target"),
        CheckConstraint("engine_id IS NOT NULL OR swept_engine IS NOT NULL", name="engine"),
    )

    id: Mapped[Id]
    channel_id: Mapped[int] = mapped_column(ForeignKey("channels.id"))
    target: Mapped[Name]
    engine_id: Mapped[int | None] = mapped_column(ForeignKey("engines.id"), index=True)
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("engines.id"), index=True)
    swept_engine: Mapped[Digest | None] = mapped_column(
        DigestText, comment="what engine_id named before the engine was swept"
    )
    swept_previous: Mapped[Digest | None] = mapped_column(
        DigestText, comment="what previous_id named before the engine was swept"
    )
    rollback: Mapped[bool] = mapped_column(
        server_default=false(), comment="back to an earlier engine, not on to another one"
    )
    cleared: Mapped[bool] = mapped_column(
        server_default=false(), comment="the engine was taken out, and nothing put in its place"
    )
    environment_id: Mapped[int] = mapped_column(
        ForeignKey("environments.id"), comment="where the gate found the engine qualified"
    )
    actor: Mapped[Name]
    moved_at: Mapped[Moment]

    channel: Mapped[ChannelRow] = relationship(lazy="joined", innerjoin=True)
    engine: Mapped[EngineRow | None] = relationship(foreign_keys=[engine_id], lazy="selectin")
    previous: Mapped[EngineRow | None] = relationship(foreign_keys=[previous_id], lazy="selectin")
    environment: Mapped[EnvironmentRow] = relationship(lazy="joined", innerjoin=True)


class StandingRow(Row):
    """Every time an engine was quarantined, released or revoked; the latest counts.

    Nothing follows a revocation.
    """

    __tablename__ = "standings"
    __table_args__ = (
        CheckConstraint("kind IN ('quarantined', 'released', 'revoked')", name="kind"),
    )

    id: Mapped[Id]
    engine_id: Mapped[int] = mapped_column(ForeignKey("engines.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[Name]
    envelope: Mapped[str | None] = mapped_column(
        Text, comment="DSSE envelope of the revocation statement"
    )
    changed_at: Mapped[Moment]

    engine: Mapped[EngineRow] = relationship(lazy="joined", innerjoin=True)


class PlacementRow(Row):
    """Which engine was last written to which directory of which node."""

    __tablename__ = "placements"
    __table_args__ = (UniqueConstraint("node", "path"),)

    id: Mapped[Id]
    node: Mapped[Name]
    path: Mapped[str] = mapped_column(Text, comment="directory on the node")
    engine_id: Mapped[int] = mapped_column(ForeignKey("engines.id"), index=True)
    placed_at: Mapped[Moment]

    engine: Mapped[EngineRow] = relationship(lazy="joined", innerjoin=True)


PRUNED = "fleet prune"
"""Of all actions only this one is looked for by its name."""
OF_PRUNES = text(f"action = '{PRUNED}'")
"""As a literal: the index of these entries alone is of no use to an action that is given later."""


class AuditRow(Row):
    """Who changed what and when; each entry holds the hash of the one before it."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "action", postgresql_where=OF_PRUNES, sqlite_where=OF_PRUNES),)

    id: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="counts from 1 without a gap"
    )
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[Name]
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(Text, comment="what was changed, by its id or name")
    details: Mapped[str] = mapped_column(Text, comment="canonical JSON, hashed as it stands")
    previous: Mapped[Digest] = mapped_column(
        DigestText, unique=True, comment="digest of the entry before: the chain has no fork"
    )
    digest: Mapped[UniqueDigest] = mapped_column(comment="ek-audit-v1 of everything else here")


class RestorationRow(Row):
    """Every time the catalogue was put back from a backup, which may lack what was signed since."""

    __tablename__ = "restorations"

    id: Mapped[Id]
    restored_at: Mapped[Moment]
    checked_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when what lies signed beside every engine was taken in"
    )
