"""The table of failures: the latest one of each key, until it expires."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.models import Id, Json, Name, Row, Simulated, UniqueDigest, UtcDateTime


class BuildFailureRow(Row):
    """Builds that failed for a cause that trying again does not help."""

    __tablename__ = "build_failures"

    id: Mapped[Id]
    key: Mapped[UniqueDigest] = mapped_column(comment="of the engine that was to be built")
    variant: Mapped[Name]
    toolchain: Mapped[Name]
    group: Mapped[str] = mapped_column("failure_group", String(40))
    pattern: Mapped[str] = mapped_column(String(100), comment="what knew the cause")
    cause: Mapped[str] = mapped_column(Text)
    remedy: Mapped[str] = mapped_column(Text)
    log: Mapped[list[str]] = mapped_column(Json, comment="the lines that decided")
    simulated: Mapped[Simulated]
    failed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    actor: Mapped[Name]
