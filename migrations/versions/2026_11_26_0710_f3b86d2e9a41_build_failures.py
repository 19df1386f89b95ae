"""Build failures: what failed for a cause that trying again does not help, for a time.

Why: a build that cannot work is tried by every machine that plans it, an hour each.
Cost: one empty table; a row for each key that failed, removed some time after it has expired.
Undo: downgrade forgets the failures: such builds are tried again. The audit log keeps them.

The previous version does not know this table.

Revision: f3b86d2e9a41, after d7a2c94b1e05.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "f3b86d2e9a41"
down_revision = "d7a2c94b1e05"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "build_failures",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "key", sa.String(100), nullable=False, comment="of the engine that was to be built"
        ),
        sa.Column("variant", sa.String(200), nullable=False),
        sa.Column("toolchain", sa.String(200), nullable=False),
        sa.Column("failure_group", sa.String(40), nullable=False),
        sa.Column("pattern", sa.String(100), nullable=False, comment="what knew the cause"),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("log", _JSON, nullable=False, comment="the lines that decided"),
        sa.Column(
            "simulated", sa.Boolean(), nullable=False,
            comment="made by a double: signed under its own trust root",
        ),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_build_failures")),
        sa.UniqueConstraint("key", name=op.f("uq_build_failures_key")),
    )  # fmt: skip
    op.create_index(op.f("ix_build_failures_expires_at"), "build_failures", ["expires_at"])


def downgrade() -> None:
    """Drops the table."""
    op.drop_index(op.f("ix_build_failures_expires_at"), "build_failures")
    op.drop_table("build_failures")
