"""What the catalogue knows of the engines on a fleet, read in a few statements for all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, String, bindparam, select, type_coerce
from sqlalchemy.orm import aliased

from registry.digests import Digest
from registry.filters import filtered
from registry.fleet.columns import (
    ColumnReader,
    as_text,
    documents,
    documents_by_row,
    of_columns,
    portions,
)
from registry.fleet.together import among, among_given, is_postgresql
from registry.fleet.types import NamedEngine
from registry.models import (
    ChannelPositionRow,
    ChannelRow,
    EngineRow,
    EnvironmentRow,
    KeyRow,
    ModelRow,
    VerdictRow,
)
from registry.types import EngineFilter, Result

_DIGEST = type_coerce(EngineRow.digest, String)
"""A digest as text: to read it as a digest takes as long as to read its row."""


class FleetEngines(ColumnReader):
    """The engines of the catalogue, as questions about a fleet need them."""

    def engine_ids(self, wanted: EngineFilter) -> list[Digest]:
        """Returns the ids of the engines of the catalogue that fit a filter."""
        query = select(EngineRow.digest).join(EngineRow.key).join(EngineRow.model)
        return list(self._session.scalars(filtered(query, wanted, self._session)))

    def engines_named(self, digests: Collection[str]) -> dict[str, NamedEngine]:
        """Returns what the catalogue calls engines; those that it does not know are absent."""
        return {row[0]: NamedEngine(*row) for row in self._of_engines("names", digests)}

    def engines_recorded(self, digests: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Yields row, id, hard and soft layer, variant, bytes, model and simulated of engines."""
        rows = list(self._of_engines("records", digests))
        hard, soft = (documents(row[at] for row in rows) for at in (2, 3))
        for (row, digest, _, _, *facts), one, other in zip(rows, hard, soft, strict=True):
            yield (row, digest, one, other, *facts)

    def engine_rows(self, digests: Iterable[str]) -> dict[int, Digest]:
        """Returns the engines that the catalogue knows of some, by row."""
        return {row: Digest.parse(text) for row, text in self._of_engines("rows", digests)}

    def verdicts_recorded(self, engines: Collection[int]) -> Iterator[tuple[int, int, int, str]]:
        """Yields (row, row of the engine, row of the environment, result), newest first."""
        query = of_columns(
            VerdictRow.id, VerdictRow.engine_id, VerdictRow.environment_id, VerdictRow.result
        ).order_by(VerdictRow.id.desc())
        for portion in portions(sorted(engines)):
            wanted = among(self._session, VerdictRow.engine_id, portion)
            yield from map(tuple, self._rows(query.where(wanted)))

    def judged(
        self, engines: Iterable[int]
    ) -> dict[int, tuple[tuple[int, str, datetime | None], ...]]:
        """Returns what was said of engines: rows of environments with results, newest first.

        With when, where `issued_where_overtaken` has it.
        """
        query = of_columns(
            VerdictRow.id, VerdictRow.engine_id, VerdictRow.environment_id, VerdictRow.result
        ).order_by(VerdictRow.id.desc())
        rows = [
            one
            for portion in portions(sorted(engines))
            for one in self._rows(query.where(among(self._session, VerdictRow.engine_id, portion)))
        ]
        passed: set[int] = set()
        turned: set[int] = set()  # of the others no pass can have been overtaken
        for _, engine, _, result in rows:
            if result == Result.PASS:
                passed.add(engine)
            elif engine in passed:
                turned.add(engine)
        issued = self.issued_where_overtaken(turned)
        found: dict[int, list[tuple[int, str, datetime | None]]] = {}
        for row, engine, where, result in rows:
            found.setdefault(engine, []).append((where, result, issued.get(row)))
        return {engine: tuple(said) for engine, said in found.items()}

    def issued_where_overtaken(self, engines: Collection[int]) -> dict[int, datetime]:
        """Returns when verdicts were issued, by row, of engines of which the order is another.

        Of such an engine a pass was recorded after a verdict that is none and was issued later.
        """
        late, other = aliased(VerdictRow), aliased(VerdictRow)
        overtaken = (
            select(late.engine_id)
            .join(other, other.engine_id == late.engine_id)
            .where(late.result == "pass", other.result != "pass")
            .where(other.id < late.id, other.issued_at > late.issued_at)
        )
        query = of_columns(VerdictRow.id, VerdictRow.issued_at)
        return {
            row: at
            for portion in portions(sorted(engines))
            for row, at in self._rows(
                query.where(
                    VerdictRow.engine_id.in_(
                        overtaken.where(among(self._session, late.engine_id, portion))
                    )
                )
            )
        }

    def environments(self, rows: Collection[int]) -> dict[int, Any]:
        """Returns the documents of environments, by row."""
        query = of_columns(EnvironmentRow.id, as_text(EnvironmentRow.document))
        return documents_by_row(
            one
            for portion in portions(sorted(rows))
            for one in self._rows(query.where(among(self._session, EnvironmentRow.id, portion)))
        )

    def positions(self) -> list[tuple[str, str, str]]:
        """Returns channel, model and engine of every position, by target."""
        query = (
            of_columns(ChannelRow.name, ChannelRow.model_name, _DIGEST)
            .join(ChannelPositionRow, ChannelPositionRow.channel_id == ChannelRow.id)
            .join(EngineRow, EngineRow.id == ChannelPositionRow.engine_id)
            .order_by(ChannelPositionRow.target)
        )
        return [(channel, model, engine) for channel, model, engine in self._rows(query)]

    def _of_engines(self, what: str, digests: Iterable[str]) -> Iterator[Any]:
        """Yields the rows of a question about those of some engines that are known."""
        asked = sorted(set(digests))
        if len(asked) == 1:
            yield from self._rows(_asking_of_one(what), {"digest": asked[0]})
            return
        query = _asking(what, is_postgresql(self._session))
        for portion in portions(asked):
            yield from self._rows(query, {"digests": portion})


_QUESTIONS: Mapping[str, Select[Any]] = {
    "rows": of_columns(EngineRow.id, _DIGEST),
    "names": of_columns(
        _DIGEST, ModelRow.name, EngineRow.recipe, EngineRow.target, EngineRow.variant,
        EngineRow.simulated,
    ).join(ModelRow, ModelRow.id == EngineRow.model_id),
    "records": of_columns(
        EngineRow.id, _DIGEST, as_text(KeyRow.hard), as_text(EngineRow.soft), EngineRow.variant,
        EngineRow.size, ModelRow.name, EngineRow.simulated,
    ).join(KeyRow, KeyRow.id == EngineRow.key_id).join(ModelRow, ModelRow.id == EngineRow.model_id),
}  # fmt: skip


@cache
def _asking(what: str, postgresql: bool) -> Select[Any]:  # noqa: FBT001 - the key of a cache
    """Returns the query of a question about engines: made once for each kind of database."""
    return _QUESTIONS[what].where(among_given(_DIGEST, "digests", postgresql=postgresql))


@cache
def _asking_of_one(what: str) -> Select[Any]:
    """Returns the query of a question about one engine, which PostgreSQL plans once.

    How many a list names it guesses too high, and plans each list anew.
    """
    return _QUESTIONS[what].where(bindparam("digest", type_=String) == _DIGEST)
