"""Finds the one thing that a person names by its id, or by an unambiguous start of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Select, bindparam
from sqlalchemy.orm import InstrumentedAttribute

from registry.digests import Digest
from registry.errors import AmbiguousIdError, InvalidRecordError, RecordNotFoundError

_PREFIX = re.compile(r"(?:([a-z0-9][a-z0-9-]*):)?([0-9a-f]{4,64})")
_SHOWN = 5  # how many candidates an ambiguous id lists
_Selected = TypeVar("_Selected", bound=Select[Any])


class _Named(Protocol):
    digest: Any


Found = TypeVar("Found", bound=_Named)


def starting(query: _Selected, digest: InstrumentedAttribute[Digest]) -> _Selected:
    """Narrows a query to what `find` asks for: ids that start with something."""
    # A range and not LIKE, so that the index is used.
    wanted = query.where(digest >= bindparam("start"), digest < bindparam("end"))
    return wanted.order_by(digest).limit(_SHOWN + 1)


def find(
    rows_of: Callable[[Mapping[str, str]], Sequence[Found]], what: str, reference: str | Digest
) -> Found:
    """Returns the one row whose id starts with a reference, of a query made by `starting`.

    Raises InvalidRecordError for what is no id, RecordNotFoundError, AmbiguousIdError.
    """
    match = _PREFIX.fullmatch(str(reference).strip().lower())
    if match is None:
        raise InvalidRecordError(
            f"cannot be the id of any {what}",
            actual=str(reference),
            expected="4 to 64 hexadecimal digits, with or without a scheme like `sha256:`",
        )
    start = f"{match[1] or 'sha256'}:{match[2]}"
    rows = rows_of({"start": start, "end": f"{start}g"})  # `g` follows the last digit
    if not rows:
        raise RecordNotFoundError(f"there is no such {what}", actual=str(reference))
    if len(rows) > 1:
        candidates = ", ".join(row.digest.short for row in rows[:_SHOWN])
        raise AmbiguousIdError(
            f"the id fits several: {candidates}{' …' if len(rows) > _SHOWN else ''}",
            actual=str(reference),
            expected=f"the id of one {what}",
            remedy="give more of its digits",
        )
    return rows[0]
