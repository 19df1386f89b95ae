"""The tables of the fleet.

Rules:

- what thousands of nodes have in common is kept once: a node points to its profile (GPUs, driver,
  platform, labels) and to its set of engines, so that a fleet is counted by a few distinct states;
- what changes every minute (a heartbeat) has a narrow table of its own, without another index; with
  it stands what every row of `where` shows of a node, which is then one look-up and not three;
- what ran is kept as intervals by the server's clock: `until` is null for what is so now;
- an engine is named by its digest as text: a node may run one that the catalogue does not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from registry.models import Id, Json, Moment, Name, Row, UtcDateTime

BigId = Annotated[
    int, mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
]
EngineText = Annotated[
    str, mapped_column(String(100), comment="digest; the catalogue may not know it")
]
_JsonOrNull = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Since = Annotated[datetime, mapped_column(UtcDateTime, comment="by the server's clock")]
Until = Annotated[datetime | None, mapped_column(UtcDateTime, comment="null: it is so now")]


class ProfileRow(Row):
    """What nodes that are alike have in common: GPUs, driver, platform, labels, problems."""

    __tablename__ = "node_profiles"

    id: Mapped[Id]
    digest: Mapped[str] = mapped_column(String(100), unique=True)
    driver: Mapped[str | None] = mapped_column(String(40), index=True)
    document: Mapped[dict[str, Any]] = mapped_column(Json)


class EngineSetRow(Row):
    """The engines that nodes which are alike have, with their bytes and the images they run in."""

    __tablename__ = "engine_sets"

    id: Mapped[Id]
    digest: Mapped[str] = mapped_column(String(100), unique=True)
    document: Mapped[list[Any]] = mapped_column(Json)
    images: Mapped[list[Any] | None] = mapped_column(
        _JsonOrNull, comment="[engine, image] of what runs, if any was told"
    )


class NodeRow(Row):
    """Enrolled nodes, and the inventory that each reported last."""

    __tablename__ = "nodes"
    __table_args__ = (Index(None, "profile_id", "engine_set_id"),)

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200), unique=True)
    token: Mapped[str] = mapped_column(String(64), comment="SHA-256 of the token, never the token")
    simulated: Mapped[bool] = mapped_column(comment="as enrolled; a node's own word is held to it")
    labels: Mapped[dict[str, str]] = mapped_column(Json, comment="of the operator: they outweigh")
    enrolled_at: Mapped[Moment]
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    state: Mapped[str | None] = mapped_column(String(100), comment="digest of the inventory")
    hardware: Mapped[str | None] = mapped_column(String(100), comment="digest of its devices")
    profile_id: Mapped[int | None] = mapped_column(ForeignKey("node_profiles.id"))
    engine_set_id: Mapped[int | None] = mapped_column(ForeignKey("engine_sets.id"), index=True)
    reported_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class HeartbeatRow(Row):
    """When each node was heard last; the last second of it may be lost with the server."""

    __tablename__ = "node_heartbeats"
    # room on each page, so that PostgreSQL writes the new version beside the old one
    __table_args__ = ({"postgresql_with": {"fillfactor": 50}},)

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    boot_id: Mapped[str | None] = mapped_column(String(64))
    earlier_boots: Mapped[list[str]] = mapped_column(Json, comment="none of them comes back")
    sequence: Mapped[int] = mapped_column(BigInteger, comment="of the last message taken")
    clock_offset: Mapped[int | None] = mapped_column(comment="seconds the node's clock is ahead")
    name: Mapped[Name] = mapped_column(comment="of the node, which is never renamed")
    simulated: Mapped[bool] = mapped_column(comment="of the node")
    driver: Mapped[str | None] = mapped_column(String(40), comment="of the node's profile")


class NodeDocumentRow(Row):
    """The whole inventory that each node reported last."""

    __tablename__ = "node_documents"

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    document: Mapped[bytes] = mapped_column(LargeBinary, comment="JSON, compressed by zlib")


class DeviceRow(Row):
    """The GPUs, and the slices of GPUs, that each node has now."""

    __tablename__ = "node_devices"

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    uuid: Mapped[str] = mapped_column(String(200), primary_key=True, index=True)
    position: Mapped[int] = mapped_column(comment="index of the GPU")
    product: Mapped[Name]
    compute_capability: Mapped[str] = mapped_column(String(20))
    profile: Mapped[str | None] = mapped_column(String(200), comment="of a MIG slice")


class NodePlacementRow(Row):
    """Which engine was on a node from when to when, in which state."""

    __tablename__ = "node_placements"
    __table_args__ = (
        Index(None, "engine", "until"),
        Index(None, "node_id", "until"),
        CheckConstraint("running IN ('declared', 'confirmed')", name="running"),
    )

    id: Mapped[BigId]
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    engine: Mapped[EngineText]
    path: Mapped[str] = mapped_column(Text, comment="directory on the node")
    bytes: Mapped[str | None] = mapped_column(Text, comment="verified, or what is wrong")
    running: Mapped[str | None] = mapped_column(String(10), comment="evidence; null: not running")
    devices: Mapped[list[str] | None] = mapped_column(
        _JsonOrNull, comment="UUIDs on which it was seen"
    )
    images: Mapped[list[str | None] | None] = mapped_column(
        _JsonOrNull, comment="of containers it runs in, null among them where a process told none"
    )
    placed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="by the node's clock")
    since: Mapped[Since]
    until: Mapped[Until]


class NodeHistoryRow(Row):
    """Which profile a node had from when to when: its driver, its GPUs."""

    __tablename__ = "node_history"
    __table_args__ = (Index(None, "node_id", "until"), Index(None, "profile_id", "until"))

    id: Mapped[BigId]
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    profile_id: Mapped[int] = mapped_column(ForeignKey("node_profiles.id"))
    since: Mapped[Since]
    until: Mapped[Until]


class AssignmentRow(Row):
    """What should run where: nodes by selector, engines by model and channel."""

    __tablename__ = "assignments"
    __table_args__ = (UniqueConstraint("selector", "model_name", "channel"),)

    id: Mapped[Id]
    selector: Mapped[str] = mapped_column(String(500))
    model_name: Mapped[Name]
    channel: Mapped[Name]
    actor: Mapped[Name]
    assigned_at: Mapped[Moment]
    container: Mapped[str | None] = mapped_column(String(500), comment="image to run in; null: any")
    container_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when the image was named"
    )


class DriftIgnoreRow(Row):
    """Drift that somebody wants: it is shown, and is no reason for an exit code."""

    __tablename__ = "drift_ignores"
    __table_args__ = (UniqueConstraint("kind", "selector"),)

    id: Mapped[Id]
    kind: Mapped[str] = mapped_column(String(40), comment="class of drift, or *")
    selector: Mapped[str] = mapped_column(String(500))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[Name]
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="null: never")
    ignored_at: Mapped[Moment]
