"""Channels cleared: a place of a channel can be emptied, and its history says so.

Why: an engine that was put into a channel first decided for good whether the channel is of the real
or of the simulated world, and no command undid it. A move of what was taken out, marked so, keeps
the history whole.
Cost: a column with a default on channel_moves, which has a row per move of a channel.
Undo: downgrade removes the marked moves; what is empty stays empty.

The previous version takes a marked move for one to the engine that was there: nothing changes.

Revision: a4e7c0d95b36, after f3b86d2e9a41.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "a4e7c0d95b36"
down_revision = "f3b86d2e9a41"
branch_labels = None
depends_on = None

_MOVES = "channel_moves"


def upgrade() -> None:
    """Adds the mark."""
    op.add_column(
        _MOVES,
        sa.Column(
            "cleared", sa.Boolean(), server_default=sa.false(), nullable=False,
            comment="the engine was taken out, and nothing put in its place",
        ),
    )  # fmt: skip


def downgrade() -> None:
    """Drops the mark, and the moves that bear it."""
    moves = sa.table(_MOVES, sa.column("cleared"))
    op.execute(moves.delete().where(moves.c.cleared))
    with op.batch_alter_table(_MOVES) as table:
        table.drop_column("cleared")
