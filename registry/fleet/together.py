"""Writes many rows in one statement, however many there are.

PostgreSQL takes them as one JSON document that it reads with the types of the columns: row by row
it would parse, plan and answer each, which costs both sides more than the writing does. SQLite,
which is in this process, gets them one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    ColumnElement,
    String,
    Table,
    TextClause,
    bindparam,
    cast,
    func,
    insert,
    text,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.digests import Digest
from registry.models import Row

Rows = Sequence[Mapping[str, Any]]
"""All with the same columns; no bytes are among the values."""
_NUMBERS: ARRAY[int] = ARRAY(BigInteger)
_TEXTS: ARRAY[str] = ARRAY(String)
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has none for it


def is_postgresql(session: Session) -> bool:
    """Says whether a session's database is PostgreSQL."""
    return session.get_bind().dialect.name == "postgresql"


def among(
    session: Session, column: InstrumentedAttribute[Any], values: Sequence[int] | Sequence[Digest]
) -> ColumnElement[bool]:
    """Returns the condition that a column has one of some rows or digests.

    PostgreSQL gets them as one array: the statement stays the same, and is planned once.
    """
    if not is_postgresql(session):
        return column.in_(values)
    if isinstance(next(iter(values), None), Digest):
        return type_coerce(column, String) == func.any(cast(list(map(str, values)), _TEXTS))
    return column == func.any(cast(list(values), _NUMBERS))


def among_given(
    text_of_it: ColumnElement[str], name: str, *, postgresql: bool
) -> ColumnElement[bool]:
    """Returns the condition of `among` for texts that a parameter gives, as a list.

    A query that has it is made once and asked again and again.
    """
    if not postgresql:
        return text_of_it.in_(bindparam(name, expanding=True))
    return text_of_it == func.any(bindparam(name, type_=_TEXTS))


def add_rows(session: Session, model: type[Row], rows: Rows) -> None:
    """Inserts rows; raises as the database does where one is there already."""
    if not rows:
        return
    if is_postgresql(session):
        statement = _insertion(_table(model), tuple(rows[0]))
        session.execute(statement, {"rows": _as_json(rows)})
        return
    session.execute(insert(model), rows)


def change_rows(
    session: Session, model: type[Row], key: str, rows: Rows, *, rising: str | None = None
) -> int:
    """Sets columns of the rows that a column names; those that are not there are passed over.

    With a rising column, a row whose own is as high already is left as it is. Returns how many
    were changed.
    """
    if not rows:
        return 0
    columns = tuple(name for name in rows[0] if name != key)
    table = _table(model)
    if is_postgresql(session):
        changed = _change(table, key, columns, rising)
        return session.connection().execute(changed, {"rows": _as_json(rows)}).rowcount
    statement = update(table).where(table.c[key] == bindparam("_key"))
    if rising is not None:
        statement = statement.where(table.c[rising] < bindparam("_rising"))
    statement = statement.values({name: bindparam(name) for name in columns})
    values = [
        {
            **{name: one[name] for name in columns},
            "_key": one[key],
            "_rising": one.get(rising or key),
        }
        for one in rows
    ]
    return session.connection().execute(statement, values).rowcount


def _as_json(rows: Rows) -> str:
    """Returns rows as the document that `_recordset` reads."""
    return json.dumps(rows, default=_moment, allow_nan=False)


def _recordset(table: Table, columns: Sequence[str], alias: str) -> str:
    """Returns the SQL that makes a table of the parameter `rows`, with the types of columns."""
    typed = ", ".join(f'"{name}" {_type(table, name)}' for name in columns)
    return f"json_to_recordset(CAST(:rows AS json)) AS {alias} ({typed})"


def _moment(value: object) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat()
    raise ValueError(f"not a value of a row: {value!r}")  # a time without a zone too


def _type(table: Table, column: str) -> str:
    kind = table.c[column].type
    return "jsonb" if isinstance(kind, JSON) else kind.compile(dialect=_DIALECT)


def _table(model: type[Row]) -> Table:
    table = model.__table__
    if not isinstance(table, Table):
        raise TypeError(f"{model.__name__} is no table")
    return table


@lru_cache(maxsize=64)
def _insertion(table: Table, columns: tuple[str, ...]) -> TextClause:
    names = ", ".join(f'"{name}"' for name in columns)
    return text(
        f"INSERT INTO {table.name} ({names}) "  # noqa: S608 - names of our own tables
        f"SELECT {names} FROM {_recordset(table, columns, 'given')}"
    )


@lru_cache(maxsize=64)
def _change(table: Table, key: str, columns: tuple[str, ...], rising: str | None) -> TextClause:
    sets = ", ".join(f'"{name}" = given."{name}"' for name in columns)
    newer = "" if rising is None else f" AND {table.name}.{rising} < given.{rising}"
    return text(
        f"UPDATE {table.name} SET {sets} "  # noqa: S608 - names of our own tables
        f"FROM {_recordset(table, (key, *columns), 'given')} "
        f"WHERE {table.name}.{key} = given.{key}{newer}"
    )
