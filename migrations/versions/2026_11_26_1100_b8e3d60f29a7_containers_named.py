"""Containers named: in which image an assignment is to run, and in which one nodes say they run.

Why: what runs in another container than it should was shown node by node, and was no drift: desired
state could not name one, and what nodes report of it lay in documents that nothing opens.
Cost: four nullable columns, which rewrite nothing. Nodes on which something runs now are asked for
their inventory once more (8 kB each, with their next heartbeat); where a start named its image,
that ends the placement and begins another one: `since` of those is the time of the upgrade.
Undo: downgrade forgets the images of assignments and of placements; nodes keep reporting them.

The previous version does not know the columns: it assigns without an image and records none.

Revision: b8e3d60f29a7, after a4d71c9e5b38.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "b8e3d60f29a7"
down_revision = "a4d71c9e5b38"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
)


def upgrade() -> None:
    """Adds the columns, and asks the nodes on which something runs what they said before."""
    op.add_column(
        "assignments",
        sa.Column("container", sa.String(500), nullable=True, comment="image to run in; null: any"),
    )
    op.add_column(
        "assignments",
        sa.Column(
            "container_at", sa.DateTime(timezone=True), nullable=True,
            comment="when the image was named",
        ),
    )  # fmt: skip
    op.add_column(
        "node_placements",
        sa.Column(
            "images", _JSON, nullable=True,
            comment="of containers it runs in, null among them where a process told none",
        ),
    )  # fmt: skip
    op.add_column(
        "engine_sets",
        sa.Column(
            "images", _JSON, nullable=True, comment="[engine, image] of what runs, if any was told"
        ),
    )
    op.execute(
        "UPDATE nodes SET state = NULL WHERE id IN (SELECT node_id FROM node_placements "
        "WHERE until IS NULL AND running IS NOT NULL)"
    )


def downgrade() -> None:
    """Drops the columns; sets that images told apart lose their names, so that none is reused."""
    op.execute("UPDATE engine_sets SET digest = 'without-images-' || id WHERE images IS NOT NULL")
    op.drop_column("engine_sets", "images")
    op.drop_column("node_placements", "images")
    op.drop_column("assignments", "container_at")
    op.drop_column("assignments", "container")
