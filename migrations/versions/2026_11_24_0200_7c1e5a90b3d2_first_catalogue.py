"""First catalogue: weights, checkpoints, engines, keys, references, verdicts, channels.

Why: what exists and whether it may be deployed must outlive the process that made it.
Cost: none, the tables are new and empty.
Undo: downgrade drops every table; artifacts and their signed documents stay in the store.

Revision: 7c1e5a90b3d2, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Text
from sqlalchemy.dialects import postgresql

revision = "7c1e5a90b3d2"
down_revision = None
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=Text()), "postgresql")
_TABLES = (
    "models", "checkpoints", "repairs", "keys", "engines", "reference_runs", "environments",
    "verdicts", "qualifications", "channels", "channel_positions", "channel_moves",
)  # fmt: skip


def upgrade() -> None:
    """Creates the tables, each after those it points to."""
    _create_models()
    _create_checkpoints()
    _create_engines()
    _create_references()
    _create_verdicts()
    _create_channels()


def downgrade() -> None:
    """Drops the tables with their indexes, each before those it points to."""
    for table in reversed(_TABLES):
        op.drop_table(table)


def _create_models() -> None:
    _create(
        "models",
        _digest("digest", None),
        _name("name"),
        sa.Column(
            "source",
            sa.Text(),
            nullable=False,
            comment="repository and revision, directory, package",
        ),
        _name("architecture"),
        _moment("recorded_at"),
        sa.UniqueConstraint("digest"),
        indexes=[["name"]],
    )


def _create_checkpoints() -> None:
    _create(
        "checkpoints",
        _digest("digest", "of the manifest"),
        _points_to("model_id", "models.id"),
        _name("recipe"),
        _digest("calibration", None, nullable=True),
        *_artifact(),
        sa.UniqueConstraint("digest"),
        indexes=[["model_id"]],
    )
    _create(
        "repairs",
        _points_to("checkpoint_id", "checkpoints.id"),
        sa.Column("position", sa.Integer(), nullable=False, comment="in the order they were made"),
        _name("name"),
        sa.Column(
            "field",
            sa.Text(),
            nullable=False,
            comment="what was changed, e.g. config.json: rotary_base",
        ),
        sa.Column("before", _JSON, nullable=True),
        sa.Column("after", _JSON, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.UniqueConstraint("checkpoint_id", "position"),
    )


def _create_engines() -> None:
    _create(
        "keys",
        _digest("digest", None),
        _name("builder"),
        sa.Column("gpu_product", sa.String(200), nullable=True),
        sa.Column("compute_capability", sa.String(20), nullable=True),
        sa.Column("cuda_runtime", sa.String(20), nullable=True),
        sa.Column("hard", _JSON, nullable=False),
        _moment("recorded_at"),
        sa.UniqueConstraint("digest"),
        indexes=[["compute_capability"]],
    )
    _create(
        "engines",
        _digest("digest", "of the manifest: the engine's id"),
        _points_to("key_id", "keys.id"),
        _points_to("model_id", "models.id"),
        _points_to("checkpoint_id", "checkpoints.id", nullable=True),
        _name("recipe"),
        _name("target"),
        _name("variant"),
        sa.Column("soft", _JSON, nullable=False, comment="soft layer of the key"),
        sa.Column("info", _JSON, nullable=False, comment="info layer of the key"),
        sa.Column(
            "provenance", sa.Text(), nullable=False, comment="DSSE envelope of the build statement"
        ),
        *_artifact(),
        sa.UniqueConstraint("digest"),
        indexes=[["checkpoint_id"], ["key_id"], ["model_id", "recipe", "target"], ["variant"]],
    )


def _create_references() -> None:
    _create(
        "reference_runs",
        _digest("digest", "of the manifest"),
        _points_to("model_id", "models.id"),
        _digest("suite", "of the probe suite"),
        _name("runtime", "what produced it, with its version"),
        _name("dtype"),
        *_artifact(),
        sa.UniqueConstraint("digest"),
        indexes=[["model_id"]],
    )


def _create_verdicts() -> None:
    _create(
        "environments",
        _digest("digest", None),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("product", sa.String(200), nullable=True),
        sa.Column("compute_capability", sa.String(20), nullable=True),
        sa.Column("cuda_runtime", sa.String(20), nullable=True),
        sa.Column("cuda_driver", sa.String(20), nullable=True),
        sa.Column("driver", sa.String(40), nullable=True),
        sa.Column("document", _JSON, nullable=False),
        sa.UniqueConstraint("digest"),
        sa.CheckConstraint("kind IN ('gpu', 'cpu')", name="kind"),
        indexes=[["driver"]],
    )
    _create(
        "verdicts",
        _digest("digest", "of the envelope"),
        _points_to("engine_id", "engines.id"),
        _points_to("environment_id", "environments.id"),
        sa.Column("result", sa.String(20), nullable=False),
        sa.Column("fidelity", sa.String(20), nullable=True),
        sa.Column("quality", sa.String(20), nullable=True),
        sa.Column("summary", sa.Text(), nullable=False),
        _digest("document", "of the verdict document"),
        _path(),
        sa.Column(
            "envelope", sa.Text(), nullable=False, comment="DSSE envelope of the verdict statement"
        ),
        _simulated(),
        sa.Column(
            "issued_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="as signed by the validator",
        ),
        _moment("recorded_at"),
        sa.UniqueConstraint("digest"),
        sa.CheckConstraint("result IN ('pass', 'fail', 'inconclusive')", name="result"),
        indexes=[["engine_id", "environment_id"], ["environment_id"]],
    )
    _create(
        "qualifications",
        _points_to("verdict_id", "verdicts.id"),
        _points_to("engine_id", "engines.id"),
        _points_to("environment_id", "environments.id"),
        _moment("recorded_at"),
        sa.UniqueConstraint("verdict_id"),
        indexes=[["engine_id", "environment_id"], ["environment_id"]],
    )


def _create_channels() -> None:
    _create(
        "channels",
        _name("name"),
        _name("model_name"),
        _simulated(),
        _moment("recorded_at"),
        sa.UniqueConstraint("name", "model_name"),
    )
    _create(
        "channel_positions",
        _points_to("channel_id", "channels.id"),
        _name("target"),
        _points_to("engine_id", "engines.id"),
        _moment("moved_at"),
        sa.UniqueConstraint("channel_id", "target"),
        indexes=[["engine_id"]],
    )
    _create(
        "channel_moves",
        _points_to("channel_id", "channels.id"),
        _name("target"),
        _points_to("engine_id", "engines.id"),
        _points_to("previous_id", "engines.id", nullable=True),
        _points_to(
            "environment_id", "environments.id", comment="where the gate found the engine qualified"
        ),
        _name("actor"),
        _moment("moved_at"),
        indexes=[["channel_id", "target"]],
    )


def _create(
    table: str,
    *columns: sa.Column[object] | sa.Constraint,
    indexes: list[list[str]] | None = None,
) -> None:
    op.create_table(table, sa.Column("id", sa.Integer(), primary_key=True), *columns)
    for names in indexes or []:
        op.create_index(None, table, names)


def _artifact() -> tuple[sa.Column[object] | sa.Constraint, ...]:
    return (
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes of all files"),
        _path(),
        _simulated(),
        _moment("recorded_at"),
        sa.CheckConstraint("size >= 0", name="size"),
    )


def _digest(name: str, comment: str | None, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.String(100), nullable=nullable, comment=comment)


def _name(name: str, comment: str | None = None) -> sa.Column[object]:
    return sa.Column(name, sa.String(200), nullable=False, comment=comment)


def _path() -> sa.Column[object]:
    return sa.Column(
        "path", sa.Text(), nullable=False, comment="where its documents lie in the store"
    )


def _simulated() -> sa.Column[object]:
    comment = "made by a double: signed under its own trust root"
    return sa.Column("simulated", sa.Boolean(), nullable=False, comment=comment)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def _points_to(
    name: str, target: str, *, nullable: bool = False, comment: str | None = None
) -> sa.Column[object]:
    return sa.Column(name, sa.Integer(), sa.ForeignKey(target), nullable=nullable, comment=comment)
