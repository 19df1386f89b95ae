"""Waves: driver changes that are rolled over nodes, where each node is, and what must be judged.

Why: a plan alone holds nobody; what was released, and why it stopped, must outlive the terminal.
Cost: three empty tables. A wave over 100,000 nodes adds as many short rows.
Undo: downgrade forgets the waves, and with them which nodes are held: `wave check` then releases
none. What was done stays in the audit log.

The previous version does not know these tables.

Revision: d7a2c94b1e05, after c5d1f8a02b6e.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "d7a2c94b1e05"
down_revision = "c5d1f8a02b6e"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
_PHASES = (
    "qualifying", "canary", "rolling", "done", "stopped", "aborted", "rolling-back", "rolled-back",
)  # fmt: skip
_STAGES = ("held", "released", "upgraded", "done", "failed", "reverting", "reverted")


def upgrade() -> None:
    """Creates the tables."""
    _create_waves()
    _create_nodes()
    _create_work()


def downgrade() -> None:
    """Drops the tables, each before the one it points to."""
    op.drop_table("wave_work")
    op.drop_index(op.f("ix_wave_nodes_node"), "wave_nodes")
    op.drop_table("wave_nodes")
    op.drop_table("waves")


def _create_waves() -> None:
    op.create_table(
        "waves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("origin", sa.String(20), nullable=False),
        sa.Column("driver", sa.String(40), nullable=False),
        sa.Column("cuda_driver", sa.String(20), nullable=False),
        sa.Column(
            "cuda_runtime", sa.String(20), nullable=True, comment="null: as each engine has it"
        ),
        sa.Column("phase", sa.String(20), nullable=False),
        sa.Column("terms", _JSON, nullable=False),
        sa.Column("places", _JSON, nullable=False, comment="inventories; none: the fleet here"),
        sa.Column("simulated", sa.Boolean(), nullable=False, comment="its nodes are no real ones"),
        sa.Column("webhook", sa.Text(), nullable=True),
        sa.Column("deployment", sa.Text(), nullable=True),
        sa.Column("specs", _JSON, nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "safe_at", sa.DateTime(timezone=True), nullable=True,
            comment="when every node first had qualified engines only",
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column(
            "version", sa.Integer(), nullable=False, comment="grows with every change: none is lost"
        ),
        sa.Column(
            "notified", sa.Integer(), nullable=False,
            comment="the version that the webhook has taken",
        ),
        _one_of("waves", "origin", ("planned", "found")),
        _one_of("waves", "phase", _PHASES),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waves")),
        sa.UniqueConstraint("name", name=op.f("uq_waves_name")),
    )  # fmt: skip


def _create_nodes() -> None:
    op.create_table(
        "wave_nodes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("wave_id", sa.Integer(), nullable=False),
        sa.Column("node", sa.String(200), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("previous_driver", sa.String(40), nullable=True),
        sa.Column(
            "named", sa.Boolean(), nullable=False, comment="somebody's word that it serves nothing"
        ),
        sa.Column("reasons", _JSON, nullable=False),
        _one_of("wave_nodes", "role", ("qualification", "canary", "batch")),
        _one_of("wave_nodes", "stage", _STAGES),
        sa.ForeignKeyConstraint(["wave_id"], ["waves.id"], name=op.f("fk_wave_nodes_wave_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wave_nodes")),
        sa.UniqueConstraint("wave_id", "node", name=op.f("uq_wave_nodes_wave_id_node")),
    )
    op.create_index(op.f("ix_wave_nodes_node"), "wave_nodes", ["node"])


def _create_work() -> None:
    op.create_table(
        "wave_work",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("wave_id", sa.Integer(), nullable=False),
        sa.Column("engine", sa.String(100), nullable=False, comment="digest"),
        sa.Column("variant", sa.String(200), nullable=False),
        sa.Column("product", sa.String(200), nullable=False),
        sa.Column("mig_profile", sa.String(200), nullable=False, comment="empty: the whole GPU"),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("run", sa.Text(), nullable=True, comment="the flow run that was asked for it"),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        _one_of("wave_work", "state", ("waiting", "dispatched", "done")),
        sa.ForeignKeyConstraint(["wave_id"], ["waves.id"], name=op.f("fk_wave_work_wave_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wave_work")),
        sa.UniqueConstraint(
            "wave_id", "engine", "product", "mig_profile",
            name=op.f("uq_wave_work_wave_id_engine_product_mig_profile"),
        ),
    )  # fmt: skip


def _one_of(table: str, column: str, names: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{name}'" for name in names)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{column}"))
