"""Life cycle: standings of engines, placements, the audit log, moves that outlive their engine.

Why: engines are quarantined, revoked and swept, and somebody must be able to tell afterwards who
did what; a channel's history must survive the engines it named.
Cost: three new tables; on PostgreSQL three columns, two indexes and a check on channel_moves, which
has a row per move of a channel; SQLite copies that table.
Undo: downgrade forgets quarantines and revocations (the signed statements stay in the store), where
engines lie, the audit log, and the moves of engines that were swept.

The previous version's statements work as before, as long as nothing was swept.

Revision: e2c95a7d1b64, after e0a95c3f7d14.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "e2c95a7d1b64"
down_revision = "e0a95c3f7d14"
branch_labels = None
depends_on = None

_MOVES = "channel_moves"
_TABLES = ("standings", "placements", "audit_log")


def upgrade() -> None:
    """Creates the tables, and lets a move name an engine by its digest alone."""
    _change_moves()
    _create_standings()
    _create_placements()
    _create_audit_log()


def downgrade() -> None:
    """Drops the tables, and the moves whose engine is gone."""
    for table in reversed(_TABLES):
        op.drop_table(table)
    moves = sa.table(_MOVES, sa.column("engine_id"))
    op.execute(moves.delete().where(moves.c.engine_id.is_(None)))
    with op.batch_alter_table(_MOVES) as moves_:
        moves_.drop_constraint(op.f("ck_channel_moves_engine"), type_="check")
        moves_.drop_index("ix_channel_moves_previous_id")
        moves_.drop_index("ix_channel_moves_engine_id")
        moves_.alter_column("engine_id", existing_type=sa.Integer(), nullable=False)
        for name in ("rollback", "swept_previous", "swept_engine"):
            moves_.drop_column(name)


def _change_moves() -> None:
    with op.batch_alter_table(_MOVES) as moves:
        moves.add_column(
            _digest("swept_engine", "what engine_id named before the engine was swept")
        )
        moves.add_column(
            _digest("swept_previous", "what previous_id named before the engine was swept")
        )
        moves.add_column(
            sa.Column(
                "rollback", sa.Boolean(), server_default=sa.false(), nullable=False,
                comment="back to an earlier engine, not on to another one",
            )
        )  # fmt: skip
        moves.alter_column("engine_id", existing_type=sa.Integer(), nullable=True)
        moves.create_index("ix_channel_moves_engine_id", ["engine_id"])
        moves.create_index("ix_channel_moves_previous_id", ["previous_id"])
        moves.create_check_constraint(
            op.f("ck_channel_moves_engine"), "engine_id IS NOT NULL OR swept_engine IS NOT NULL"
        )


def _create_standings() -> None:
    op.create_table(
        "standings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("engine_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column(
            "envelope", sa.Text(), nullable=True,
            comment="DSSE envelope of the revocation statement",
        ),
        _moment("changed_at"),
        sa.CheckConstraint(
            "kind IN ('quarantined', 'released', 'revoked')", name=op.f("ck_standings_kind")
        ),
        sa.ForeignKeyConstraint(
            ["engine_id"], ["engines.id"], name=op.f("fk_standings_engine_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_standings")),
    )  # fmt: skip
    op.create_index(op.f("ix_standings_engine_id"), "standings", ["engine_id"])


def _create_placements() -> None:
    op.create_table(
        "placements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node", sa.String(200), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="directory on the node"),
        sa.Column("engine_id", sa.Integer(), nullable=False),
        _moment("placed_at"),
        sa.ForeignKeyConstraint(
            ["engine_id"], ["engines.id"], name=op.f("fk_placements_engine_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_placements")),
        sa.UniqueConstraint("node", "path", name=op.f("uq_placements_node_path")),
    )  # fmt: skip
    op.create_index(op.f("ix_placements_engine_id"), "placements", ["engine_id"])


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column(
            "id", sa.Integer(), autoincrement=False, nullable=False,
            comment="counts from 1 without a gap",
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column(
            "subject", sa.Text(), nullable=False, comment="what was changed, by its id or name"
        ),
        sa.Column(
            "details", sa.Text(), nullable=False, comment="canonical JSON, hashed as it stands"
        ),
        _required(_digest("previous", "digest of the entry before: the chain has no fork")),
        _required(_digest("digest", "ek-audit-v1 of everything else here")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("previous", name=op.f("uq_audit_log_previous")),
        sa.UniqueConstraint("digest", name=op.f("uq_audit_log_digest")),
    )  # fmt: skip


def _digest(name: str, comment: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(100), nullable=True, comment=comment)


def _required(column: sa.Column[str]) -> sa.Column[str]:
    column.nullable = False
    return column


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)
