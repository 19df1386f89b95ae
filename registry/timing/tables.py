"""The table of timing caches: rows are added and swept, never changed; the latest counts."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.digests import Digest
from registry.models import (
    Bytes,
    DigestText,
    Id,
    Moment,
    Name,
    Row,
    Simulated,
    StorePath,
    UniqueDigest,
)


class TimingCacheRow(Row):
    """What builders measured on one kind of GPU under one set of software."""

    __tablename__ = "timing_caches"
    __table_args__ = (CheckConstraint("size >= 0", name="size"), Index(None, "key", "simulated"))

    id: Mapped[Id]
    digest: Mapped[UniqueDigest] = mapped_column(comment="of the manifest")
    key: Mapped[Digest] = mapped_column(DigestText, comment="of the five columns that follow")
    gpu: Mapped[Name]
    compute_capability: Mapped[str] = mapped_column(String(20))
    tensorrt: Mapped[str] = mapped_column(String(40))
    cuda_runtime: Mapped[str] = mapped_column(String(20))
    cuda_driver: Mapped[str] = mapped_column(String(20), comment="of its API")
    grown_from: Mapped[Digest | None] = mapped_column(
        DigestText, comment="the cache that its build started with; it may have been swept"
    )
    size: Mapped[Bytes]
    path: Mapped[StorePath]
    provenance: Mapped[str] = mapped_column(Text, comment="DSSE envelope of the builder's")
    simulated: Mapped[Simulated]
    recorded_at: Mapped[Moment]
