"""Verification summaries: a verdict's statement in the words that other tools read.

Why: policy engines know SLSA's verification summary; none knows what our test results mean.
Cost: one column that may be null; no row is rewritten.
Undo: downgrade forgets the summaries; they stay in the store, beside the verdicts.

The previous version's statements work as before: they name the other columns. A verdict that it
recorded has no summary.

Revision: 3f9c2d81e7a4, after e2c95a7d1b64.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3f9c2d81e7a4"
down_revision = "e2c95a7d1b64"
branch_labels = None
depends_on = None

_COMMENT = "DSSE envelope of the verification summary, since there are any"


def upgrade() -> None:
    """Adds what a verdict is summarized by."""
    op.add_column("verdicts", sa.Column("vsa", sa.Text(), nullable=True, comment=_COMMENT))


def downgrade() -> None:
    """Drops the column."""
    op.drop_column("verdicts", "vsa")
