"""Timing caches: what builds measured of a GPU's kernels, kept for the next build on such a GPU.

Why: every build measured everything again, on a GPU that could have served meanwhile.
Cost: one empty table; a row for each build that measured something new, all but the latest of a
key swept after the grace period.
Undo: downgrade forgets the caches; their documents and blobs are then orphans for the sweep.

The previous version does not know this table.

Revision: a4d71c9e5b38, after a4e7c0d95b36.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "a4d71c9e5b38"
down_revision = "a4e7c0d95b36"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "timing_caches",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(100), nullable=False, comment="of the manifest"),
        sa.Column(
            "key", sa.String(100), nullable=False, comment="of the five columns that follow"
        ),
        sa.Column("gpu", sa.String(200), nullable=False),
        sa.Column("compute_capability", sa.String(20), nullable=False),
        sa.Column("tensorrt", sa.String(40), nullable=False),
        sa.Column("cuda_runtime", sa.String(20), nullable=False),
        sa.Column("cuda_driver", sa.String(20), nullable=False, comment="of its API"),
        sa.Column(
            "grown_from", sa.String(100), nullable=True,
            comment="the cache that its build started with; it may have been swept",
        ),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes of all files"),
        sa.Column(
            "path", sa.Text(), nullable=False, comment="where its documents lie in the store"
        ),
        sa.Column(
            "provenance", sa.Text(), nullable=False, comment="DSSE envelope of the builder's"
        ),
        sa.Column(
            "simulated", sa.Boolean(), nullable=False,
            comment="made by a double: signed under its own trust root",
        ),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), nullable=False,
            server_default=sa.func.now(),
        ),
        sa.CheckConstraint("size >= 0", name=op.f("ck_timing_caches_size")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_timing_caches")),
        sa.UniqueConstraint("digest", name=op.f("uq_timing_caches_digest")),
    )  # fmt: skip
    op.create_index(op.f("ix_timing_caches_key_simulated"), "timing_caches", ["key", "simulated"])


def downgrade() -> None:
    """Drops the table."""
    op.drop_index(op.f("ix_timing_caches_key_simulated"), "timing_caches")
    op.drop_table("timing_caches")
