"""Reads columns of many rows: past the session's objects, and the JSON of all rows in one go.

A driver that decodes JSON value by value takes twice as long for a thousand small documents as one
decoder takes for a list of them: so they are read as text, and decoded together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Cast, CursorResult, Select, Text, cast, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.fleet.together import is_postgresql

IN_BINARY = "enginekeeper_in_binary"
"""The option of a statement that PostgreSQL answers in its binary format: to write and read a
thousand times as text takes longer than to find them. For columns of our tables: what has no
reader in binary, as some of its own catalogues' have, would come back as bytes."""
TOGETHER = 10_000  # values that one statement names; SQLite takes 32766 parameters


def of_columns(*columns: Any) -> Select[Any]:  # noqa: ANN401 - columns of any kind
    """Returns the query of columns; rows of columns cost a tenth of rows of objects."""
    return select(*columns)


def as_text(column: InstrumentedAttribute[Any]) -> Cast[str]:
    """Returns a column of JSON as text, for `documents`."""
    return cast(column, Text)


def documents(texts: Iterable[str]) -> list[Any]:
    """Decodes JSON documents that the database wrote, in their order."""
    found: list[Any] = json.loads(f"[{','.join(texts)}]")
    return found


def documents_by_row(rows: Iterable[tuple[int, str]]) -> dict[int, Any]:
    """Decodes the documents of rows, each beside its row."""
    told = list(rows)
    return dict(zip((row for row, _ in told), documents(one for _, one in told), strict=True))


def portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yields values in portions that one statement can name."""
    for start in range(0, len(values), TOGETHER):
        yield values[start : start + TOGETHER]


class ColumnReader:
    """Reads columns in one state of the catalogue."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _rows(self, query: Select[Any], given: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Returns rows of columns, past what the session does for objects: half of the time."""
        return self._asked(query, given).all()  # one by one costs twice

    def _tuples(self, query: Select[Any], given: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Returns rows as they are: on PostgreSQL the driver's own tuples, in a third of the time.

        Only for columns whose values PostgreSQL's driver gives as they are wanted: no digests.
        """
        asked = self._asked(query, given)
        if not is_postgresql(self._session):
            return asked.all()
        found: Sequence[tuple[Any, ...]] = asked.cursor.fetchall()
        asked.close()
        return found

    def _asked(self, query: Select[Any], given: Mapping[str, Any] | None) -> CursorResult[Any]:
        self._session.flush()  # as a query of the session would
        return self._session.connection().execute(query, given, execution_options={IN_BINARY: True})
