"""Runs migrations on the connection that `registry.migrate` hands over.

By hand, to write a new one: `alembic -x url=sqlite:////tmp/scratch.db revision --autogenerate`.
"""

from __future__ import annotations

from typing import Literal

from alembic import context
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeDecorator

from registry.catalogue import connect, parse_url
from registry.failures import tables as _failure_tables  # noqa: F401 - its tables are among them
from registry.fleet import tables as _fleet_tables  # noqa: F401 - its tables are among them
from registry.models import Row
from registry.waves import tables as _wave_tables  # noqa: F401 - its tables are among them

# A migration that waits longer than this for a lock would make every reader wait behind it.
_POSTGRES = (
    "SET LOCAL lock_timeout = '10s'",
    "SET LOCAL statement_timeout = '10min'",
    "SELECT pg_advisory_xact_lock(hashtext('enginekeeper migrations'))",
)


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Row.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        render_item=_render_type,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            for statement in _POSTGRES:
                connection.execute(text(statement))
        context.run_migrations()


def _render_type(kind: str, item: object, _: object) -> str | Literal[False]:
    """Writes the column type a decorated type stands for: a migration must not change with it."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


def _main() -> None:
    handed_over = context.config.attributes.get("connection")
    if handed_over is not None:
        _run(handed_over)
        return
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not isinstance(url, str):
        raise SystemExit("say which catalogue: alembic -x url=sqlite:////path/to/catalogue.db …")
    with connect(parse_url(url), foreign_keys=False).connect() as connection:
        _run(connection)
        connection.commit()


_main()
