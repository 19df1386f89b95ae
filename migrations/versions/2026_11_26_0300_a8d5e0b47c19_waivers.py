"""Waivers: signed permissions to run an engine in spite of a rule of the gate, for a time.

Why: without them, an emergency is met by switching the gate off, and nobody sees that it was.
Cost: one empty table.
Undo: downgrade forgets the waivers, which closes the gates that they held open; the signed
statements stay in the store, beside the engines.

The previous version does not know the table, and so no waiver: its gates stay closed.

Revision: a8d5e0b47c19, after 3f9c2d81e7a4.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "a8d5e0b47c19"
down_revision = "3f9c2d81e7a4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table."""
    now = sa.text("(CURRENT_TIMESTAMP)")
    json = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
    op.create_table(
        "waivers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(100), nullable=False, comment="of the envelope"),
        sa.Column("engine_id", sa.Integer(), nullable=False),
        sa.Column(
            "environment_id", sa.Integer(), nullable=True,
            comment="where it counts; null for everywhere",
        ),
        sa.Column("rules", json, nullable=False, comment="of the gate"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("granted_by", sa.String(200), nullable=False),
        _moment("issued_at", "as signed by the approver"),
        _moment("expires_at", "as signed by the approver"),
        sa.Column(
            "path", sa.Text(), nullable=False, comment="where its documents lie in the store"
        ),
        sa.Column("envelope", sa.Text(), nullable=False, comment="DSSE envelope of the waiver"),
        sa.Column(
            "ending", sa.Text(), nullable=True,
            comment="DSSE envelope of the statement that ended it before its time",
        ),
        sa.Column(
            "simulated", sa.Boolean(), nullable=False,
            comment="made by a double: signed under its own trust root",
        ),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=now, nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["engine_id"], ["engines.id"], name=op.f("fk_waivers_engine_id")
        ),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("fk_waivers_environment_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waivers")),
        sa.UniqueConstraint("digest", name=op.f("uq_waivers_digest")),
    )  # fmt: skip
    op.create_index(op.f("ix_waivers_engine_id"), "waivers", ["engine_id"])


def downgrade() -> None:
    """Drops the table."""
    op.drop_index(op.f("ix_waivers_engine_id"), "waivers")
    op.drop_table("waivers")


def _moment(name: str, comment: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, comment=comment)
