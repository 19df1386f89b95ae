"""An index on the CUDA runtime of keys: ranges of versions read what is there off an index.

Why: `ek engine list --cuda 12` asks which CUDA versions there are and then for the engines of those
in the range; without an index each question reads every key.
Cost: one index on a small column; building it reads the table once and lets nobody write meanwhile
(well under a second for 100,000 keys).
Undo: downgrade drops the index; nothing else knows of it.

The previous version works with it as before: it only reads and writes the column.

Revision: e0a95c3f7d14, after b41d07e6c2f8.
"""

from __future__ import annotations

from alembic import op

revision = "e0a95c3f7d14"
down_revision = "b41d07e6c2f8"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the index."""
    op.create_index(None, "keys", ["cuda_runtime"])


def downgrade() -> None:
    """Drops the index."""
    op.drop_index(op.f("ix_keys_cuda_runtime"), "keys")
