"""Restorations: a catalogue that was restored from a backup says so until it was checked.

Why: a backup may be from before a revocation. The gate believed it until a channel was moved or the
store was scrubbed; now it looks beside the engine first, while there is an unchecked restoration.
Cost: one table of a few rows. A catalogue that has engines is marked once, because nobody can tell
any more whether it was restored: until `ek store scrub` the gate asks the store once per question.
Undo: downgrade forgets the marks; scrub first.

The previous version does not know the table, and believes a restored catalogue as it did.

Revision: c6b4f1e83a52, after a8d5e0b47c19.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "c6b4f1e83a52"
down_revision = "a8d5e0b47c19"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table, with a mark where there are engines."""
    op.create_table(
        "restorations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "restored_at", sa.DateTime(timezone=True),
            server_default=sa.text("(CURRENT_TIMESTAMP)"), nullable=False,
        ),
        sa.Column(
            "checked_at", sa.DateTime(timezone=True), nullable=True,
            comment="when what lies signed beside every engine was taken in",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_restorations")),
    )  # fmt: skip
    op.execute(
        "INSERT INTO restorations (checked_at) SELECT NULL WHERE EXISTS (SELECT 1 FROM engines)"
    )


def downgrade() -> None:
    """Drops the table."""
    op.drop_table("restorations")
