"""The fleet: enrolled nodes, their heartbeats and inventories, what ran when, what should run.

Why: what runs where was known on each node alone.
Cost: empty tables. At 100,000 nodes of eight GPUs and three engines about 1 GB, most of it the
documents and the GPUs.
Undo: downgrade forgets the fleet, with its history, assignments and the digests of tokens: agents
are refused until their nodes are enrolled again, and then report everything anew.

The previous version does not know these tables.

Revision: c5d1f8a02b6e, after c6b4f1e83a52.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "c5d1f8a02b6e"
down_revision = "c6b4f1e83a52"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = (
    "node_profiles", "engine_sets", "nodes", "node_heartbeats", "node_documents", "node_devices",
    "node_placements", "node_history", "assignments", "drift_ignores",
)  # fmt: skip


def upgrade() -> None:
    """Creates the tables, each after those it points to."""
    _create_states()
    _create_nodes()
    _create_reports()
    _create_history()
    _create_desired()


def downgrade() -> None:
    """Drops the tables with their indexes, each before those it points to."""
    for table in reversed(_TABLES):
        op.drop_table(table)


def _create_states() -> None:
    _create(
        "node_profiles",
        _id(),
        _text("digest", 100),
        _text("driver", 40, nullable=True),
        sa.Column("document", _JSON, nullable=False),
        sa.UniqueConstraint("digest", name=op.f("uq_node_profiles_digest")),
        indexes=[["driver"]],
    )
    _create(
        "engine_sets",
        _id(),
        _text("digest", 100),
        sa.Column("document", _JSON, nullable=False),
        sa.UniqueConstraint("digest", name=op.f("uq_engine_sets_digest")),
    )


def _create_nodes() -> None:
    _create(
        "nodes",
        _id(),
        _text("name", 200),
        _text("token", 64, comment="SHA-256 of the token, never the token"),
        sa.Column(
            "simulated", sa.Boolean(), nullable=False,
            comment="as enrolled; a node's own word is held to it",
        ),
        sa.Column("labels", _JSON, nullable=False, comment="of the operator: they outweigh"),
        _moment("enrolled_at", now=True),
        _moment("retired_at", nullable=True),
        _text("state", 100, nullable=True, comment="digest of the inventory"),
        _text("hardware", 100, nullable=True, comment="digest of its devices"),
        _foreign("nodes", "profile_id", "node_profiles.id", nullable=True),
        _foreign("nodes", "engine_set_id", "engine_sets.id", nullable=True),
        _moment("reported_at", nullable=True),
        sa.UniqueConstraint("name", name=op.f("uq_nodes_name")),
        indexes=[["profile_id", "engine_set_id"], ["engine_set_id"]],
    )  # fmt: skip


def _create_reports() -> None:
    _create(
        "node_heartbeats",
        _foreign("node_heartbeats", "node_id", "nodes.id"),
        _moment("seen_at", nullable=True),
        _text("boot_id", 64, nullable=True),
        sa.Column("earlier_boots", _JSON, nullable=False, comment="none of them comes back"),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="of the last message taken"),
        sa.Column(
            "clock_offset", sa.Integer(), nullable=True, comment="seconds the node's clock is ahead"
        ),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node_heartbeats")),
        postgresql_with={"fillfactor": 50},
    )
    _create(
        "node_documents",
        _foreign("node_documents", "node_id", "nodes.id"),
        sa.Column("document", sa.LargeBinary(), nullable=False, comment="JSON, compressed by zlib"),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node_documents")),
    )
    _create(
        "node_devices",
        _foreign("node_devices", "node_id", "nodes.id"),
        _text("uuid", 200),
        sa.Column("position", sa.Integer(), nullable=False, comment="index of the GPU"),
        _text("product", 200),
        _text("compute_capability", 20),
        _text("profile", 200, nullable=True, comment="of a MIG slice"),
        sa.PrimaryKeyConstraint("node_id", "uuid", name=op.f("pk_node_devices")),
        indexes=[["uuid"]],
    )


def _create_history() -> None:
    known = "digest; the catalogue may not know it"
    _create(
        "node_placements",
        _id(_BIG),
        _foreign("node_placements", "node_id", "nodes.id"),
        _text("engine", 100, comment=known),
        sa.Column("path", sa.Text(), nullable=False, comment="directory on the node"),
        sa.Column("bytes", sa.Text(), nullable=True, comment="verified, or what is wrong"),
        _text("running", 10, nullable=True, comment="evidence; null: not running"),
        sa.Column("devices", _JSON, nullable=True, comment="UUIDs on which it was seen"),
        _moment("placed_at", nullable=True, comment="by the node's clock"),
        *_interval(),
        sa.CheckConstraint(
            "running IN ('declared', 'confirmed')", name=op.f("ck_node_placements_running")
        ),
        indexes=[["engine", "until"], ["node_id", "until"]],
    )
    _create(
        "node_history",
        _id(_BIG),
        _foreign("node_history", "node_id", "nodes.id"),
        _foreign("node_history", "profile_id", "node_profiles.id"),
        *_interval(),
        indexes=[["node_id", "until"], ["profile_id", "until"]],
    )


def _create_desired() -> None:
    _create(
        "assignments",
        _id(),
        _text("selector", 500),
        _text("model_name", 200),
        _text("channel", 200),
        _text("actor", 200),
        _moment("assigned_at", now=True),
        sa.UniqueConstraint(
            "selector", "model_name", "channel",
            name=op.f("uq_assignments_selector_model_name_channel"),
        ),
    )  # fmt: skip
    _create(
        "drift_ignores",
        _id(),
        _text("kind", 40, comment="class of drift, or *"),
        _text("selector", 500),
        sa.Column("reason", sa.Text(), nullable=False),
        _text("actor", 200),
        _moment("expires_at", nullable=True, comment="null: never"),
        _moment("ignored_at", now=True),
        sa.UniqueConstraint("kind", "selector", name=op.f("uq_drift_ignores_kind_selector")),
    )


def _create(
    table: str,
    *columns: sa.Column[object] | sa.Constraint,
    indexes: Sequence[Sequence[str]] = (),
    **options: object,
) -> None:
    keyed = any(isinstance(one, sa.PrimaryKeyConstraint) for one in columns)
    key = () if keyed else (sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),)
    op.create_table(table, *columns, *key, **options)
    for index in indexes:
        op.create_index(op.f(f"ix_{table}_{'_'.join(index)}"), table, list(index))


def _id(kind: sa.types.TypeEngine[int] | None = None) -> sa.Column[object]:
    return sa.Column("id", kind or sa.Integer(), nullable=False)


def _text(
    name: str, size: int, *, nullable: bool = False, comment: str | None = None
) -> sa.Column[object]:
    return sa.Column(name, sa.String(size), nullable=nullable, comment=comment)


def _foreign(table: str, name: str, target: str, *, nullable: bool = False) -> sa.Column[object]:
    key = sa.ForeignKey(target, name=op.f(f"fk_{table}_{name}"))
    return sa.Column(name, sa.Integer(), key, nullable=nullable)


def _interval() -> tuple[sa.Column[object], sa.Column[object]]:
    return (
        _moment("since", comment="by the server's clock"),
        _moment("until", nullable=True, comment="null: it is so now"),
    )


def _moment(
    name: str, *, nullable: bool = False, now: bool = False, comment: str | None = None
) -> sa.Column[object]:
    default = sa.text("(CURRENT_TIMESTAMP)") if now else None
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=default, nullable=nullable, comment=comment
    )
