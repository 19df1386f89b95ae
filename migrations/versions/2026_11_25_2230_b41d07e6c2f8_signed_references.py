"""Signed references: found by what they are made from, believed by their signature.

Why: a reference was made anew on every machine, because nothing said what it was made from and
nobody could have believed one that lay in a shared store.
Cost: four columns that may be null and an index on a small table; no row is rewritten.
Undo: downgrade forgets the references that were signed, since without a key they would stand in the
way of being recorded again; their artifacts and signed statements stay in the store.

The previous version's statements work as before: they name the other columns. A row that it wrote
has no key, and this version never reads it.

Revision: b41d07e6c2f8, after 7c1e5a90b3d2.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b41d07e6c2f8"
down_revision = "7c1e5a90b3d2"
branch_labels = None
depends_on = None

_TABLE = "reference_runs"
_COLUMNS = ("key", "tokens", "top_k", "provenance")


def upgrade() -> None:
    """Adds what a reference is found by, and the statement that it is believed by."""
    _add("key", sa.String(100), "of all it is made from; found by this")
    _add("tokens", sa.String(100), "of the suite in the model's tokens")
    _add("top_k", sa.Integer(), "best tokens kept at each position")
    _add("provenance", sa.Text(), "DSSE envelope of the reference statement")
    op.create_index(None, _TABLE, ["key"])


def downgrade() -> None:
    """Drops the rows that have a key, then the index and the columns."""
    rows = sa.table(_TABLE, sa.column("key"))
    op.execute(rows.delete().where(rows.c.key.is_not(None)))
    op.drop_index(op.f("ix_reference_runs_key"), _TABLE)
    for name in reversed(_COLUMNS):
        op.drop_column(_TABLE, name)


def _add(name: str, kind: sa.types.TypeEngine[object], comment: str) -> None:
    op.add_column(_TABLE, sa.Column(name, kind, nullable=True, comment=comment))
