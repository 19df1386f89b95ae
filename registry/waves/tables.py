"""The tables of waves.

Rules:

- a wave is never removed: what was rolled out when, and why it stopped, stays;
- who changed a wave and why is in the audit log, in the same unit of work;
- a node and an engine are named as text: the catalogue need not know either.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.models import Id, Json, Name, Row, UtcDateTime
from registry.waves.types import Origin, Phase, Role, Stage, WorkState


def _one_of(column: str, names: type[Origin | Phase | Role | Stage | WorkState]) -> CheckConstraint:
    listed = ", ".join(f"'{name}'" for name in names)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class WaveRow(Row):
    """Driver changes, announced or found."""

    __tablename__ = "waves"
    __table_args__ = (_one_of("origin", Origin), _one_of("phase", Phase))

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200), unique=True)
    origin: Mapped[str] = mapped_column(String(20))
    driver: Mapped[str] = mapped_column(String(40))
    cuda_driver: Mapped[str] = mapped_column(String(20))
    cuda_runtime: Mapped[str | None] = mapped_column(
        String(20), comment="null: as each engine has it"
    )
    phase: Mapped[str] = mapped_column(String(20))
    terms: Mapped[dict[str, Any]] = mapped_column(Json)
    places: Mapped[list[str]] = mapped_column(Json, comment="inventories; none: the fleet here")
    simulated: Mapped[bool] = mapped_column(comment="its nodes are no real ones")
    webhook: Mapped[str | None] = mapped_column(Text)
    deployment: Mapped[str | None] = mapped_column(Text)
    specs: Mapped[list[str]] = mapped_column(Json)
    announced_at: Mapped[datetime] = mapped_column(UtcDateTime)
    safe_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when every node first had qualified engines only"
    )
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    reason: Mapped[str | None] = mapped_column(Text)
    actor: Mapped[Name]
    version: Mapped[int] = mapped_column(comment="grows with every change: none is lost")
    notified: Mapped[int] = mapped_column(comment="the version that the webhook has taken")


class WaveNodeRow(Row):
    """The nodes of each wave, and where each of them is."""

    __tablename__ = "wave_nodes"
    __table_args__ = (
        UniqueConstraint("wave_id", "node"),
        Index(None, "node"),
        _one_of("role", Role),
        _one_of("stage", Stage),
    )

    id: Mapped[Id]
    wave_id: Mapped[int] = mapped_column(ForeignKey("waves.id"))
    node: Mapped[Name]
    role: Mapped[str] = mapped_column(String(20))
    stage: Mapped[str] = mapped_column(String(20))
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    previous_driver: Mapped[str | None] = mapped_column(String(40))
    named: Mapped[bool] = mapped_column(comment="somebody's word that it serves nothing")
    reasons: Mapped[list[str]] = mapped_column(Json)


class WaveWorkRow(Row):
    """The judgements and builds that each wave needs."""

    __tablename__ = "wave_work"
    __table_args__ = (
        UniqueConstraint("wave_id", "engine", "product", "mig_profile"),
        _one_of("state", WorkState),
    )

    id: Mapped[Id]
    wave_id: Mapped[int] = mapped_column(ForeignKey("waves.id"))
    engine: Mapped[str] = mapped_column(String(100), comment="digest")
    variant: Mapped[Name]
    product: Mapped[Name]
    mig_profile: Mapped[str] = mapped_column(String(200), comment="empty: the whole GPU")
    action: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20))
    attempt: Mapped[int]
    run: Mapped[str | None] = mapped_column(Text, comment="the flow run that was asked for it")
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
