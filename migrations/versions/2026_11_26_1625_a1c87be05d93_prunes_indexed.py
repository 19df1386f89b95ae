"""Prunes indexed: until when the fleet's history was forgotten, found without reading all of it.

Why: `ek where --at` asks the audit log for it, which grows with every change that people make and
was read from end to end each time.
Cost: an index of the entries about prunes alone; nothing else that is noted has to write it.
Undo: downgrade drops it.

The previous version would work with it, but does not open this catalogue.

Revision: a1c87be05d93, after d2f6a91c4e70.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "a1c87be05d93"
down_revision = "d2f6a91c4e70"
branch_labels = None
depends_on = None

_PRUNES = sa.text("action = 'fleet prune'")


def upgrade() -> None:
    """Creates the index."""
    op.create_index(
        op.f("ix_audit_log_action"), "audit_log", ["action"],
        postgresql_where=_PRUNES, sqlite_where=_PRUNES,
    )  # fmt: skip


def downgrade() -> None:
    """Drops the index."""
    op.drop_index(op.f("ix_audit_log_action"), "audit_log")
