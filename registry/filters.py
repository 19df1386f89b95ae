"""Which engines are asked for, as conditions of a query.

Versions are compared as numbers, which no database does of itself: the few different versions
that a column holds are read off its index, those in the range are chosen here, and the query asks
for exactly these. Nothing is stored twice, and rows that an older version wrote are found too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from registry.models import CheckpointRow, EngineRow, EnvironmentRow, KeyRow, ModelRow, VerdictRow
from registry.types import EngineFilter, Result
from registry.versions import VersionRange

_Selected = TypeVar("_Selected", bound=Select[Any])


def filtered(query: _Selected, wanted: EngineFilter, session: Session) -> _Selected:
    """Narrows a query of engines, with their keys and models, to those that fit a filter."""
    query = query.where(*_equal(wanted), *_in_range(wanted, session))
    if wanted.asks_for_verdict:
        judged = select(VerdictRow.engine_id).join(VerdictRow.environment)
        query = query.where(EngineRow.id.in_(judged.where(*_judged(wanted, session))))
    return query.limit(wanted.limit)


def is_latest() -> ColumnElement[bool]:
    """Says of a verdict whether none on the same engine in the same environment came later."""
    later = aliased(VerdictRow)
    return ~(
        select(later.id)
        .where(
            later.engine_id == VerdictRow.engine_id,
            later.environment_id == VerdictRow.environment_id,
            later.id > VerdictRow.id,
        )
        .exists()
    )


def values_of(column: InstrumentedAttribute[Any], session: Session) -> list[str]:
    """Returns the different values of an indexed column: one look at the index for each."""
    values = select(func.min(column).label("value")).cte("different", recursive=True)
    above = select(func.min(column)).where(column > values.c.value).scalar_subquery()
    values = values.union_all(select(above).where(values.c.value.is_not(None)))
    return list(session.scalars(select(values.c.value).where(values.c.value.is_not(None))))


def _equal(wanted: EngineFilter) -> Iterator[ColumnElement[bool]]:
    columns: tuple[tuple[Any, object], ...] = (
        (ModelRow.name, wanted.model),
        (EngineRow.recipe, wanted.recipe),
        (EngineRow.target, wanted.target),
        (EngineRow.variant, wanted.variant),
        (EngineRow.simulated, wanted.simulated),
        (KeyRow.builder, wanted.builder),
        (KeyRow.digest, wanted.key),
        (ModelRow.digest, wanted.weights),
    )
    for column, value in columns:
        if value is not None:
            yield column == value
    if wanted.checkpoint is not None:
        made_from = select(CheckpointRow.id).where(CheckpointRow.digest == wanted.checkpoint)
        yield EngineRow.checkpoint_id.in_(made_from)


def _in_range(wanted: EngineFilter, session: Session) -> Iterator[ColumnElement[bool]]:
    columns: tuple[tuple[InstrumentedAttribute[Any], VersionRange | None], ...] = (
        (KeyRow.compute_capability, wanted.compute_capability),
        (KeyRow.cuda_runtime, wanted.cuda),
    )
    for column, versions in columns:
        if versions is not None:
            yield column.in_(versions.of(values_of(column, session)))


def _judged(wanted: EngineFilter, session: Session) -> Iterator[ColumnElement[bool]]:
    if wanted.driver is not None:
        drivers = wanted.driver.of(values_of(EnvironmentRow.driver, session))
        yield EnvironmentRow.driver.in_(drivers)
    if wanted.environment is not None:
        yield EnvironmentRow.digest == wanted.environment.digest()
    if wanted.qualified or wanted.environment is not None:
        yield VerdictRow.result == Result.PASS
        yield is_latest()
