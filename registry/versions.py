"""Versions compared as numbers, and ranges of them: `9.10` is newer than `9.9`.

Rules:

- a version is dotted whole numbers; missing parts are zeros, so that `9` is `9.0`;
- `12` or `R580` in a range means everything that starts so: `12.0`, `12.9`, `580.95.05`;
- `>=8.9`, `>8`, `<=13.0`, `<13` bound a range, and commas join bounds: `>=12.4,<13`;
- what is no version (`unknown`, `580.95-server`) is in no range.

Example:
    >>> "12.10" in VersionRange.parse(">=12.9,<13")
    True
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from registry.errors import InvalidRecordError

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
_BOUND = re.compile(r"\s*(>=|<=|>|<|==|=)?\s*[Rr]?([0-9.]+)\s*")
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
    "==": operator.eq, "=": operator.eq,
}  # fmt: skip
STARTS = "starts"
"""The bound of a version that stands alone."""


@dataclass(frozen=True)
class Bound:
    """One condition on a version."""

    relation: str
    """`>=`, `<=`, `>`, `<`, `==`, or `starts`."""
    parts: tuple[int, ...]

    def holds(self, version: tuple[int, ...]) -> bool:
        """Says whether a version meets the condition."""
        if self.relation == STARTS:
            filled = version + (0,) * (len(self.parts) - len(version))
            return filled[: len(self.parts)] == self.parts
        return _COMPARE[self.relation](_compared(version, self.parts), 0)


@dataclass(frozen=True)
class VersionRange:
    """Versions that meet every bound."""

    bounds: tuple[Bound, ...]

    def __contains__(self, version: object) -> bool:
        parts = version_parts(version)
        return parts is not None and all(bound.holds(parts) for bound in self.bounds)

    def of(self, versions: Iterable[str]) -> list[str]:
        """Returns those of some versions that are in the range."""
        return [one for one in versions if one in self]

    @classmethod
    def parse(cls, text: str, *, where: str = "version") -> VersionRange:
        """Reads `12`, `R580`, `9.0`, `>=12.4,<13` and the like; raises InvalidRecordError."""
        bounds = []
        for piece in text.split(","):
            match = _BOUND.fullmatch(piece)
            parts = None if match is None else version_parts(match[2])
            if match is None or parts is None:
                raise InvalidRecordError(
                    "not a version or a range of versions",
                    where=where,
                    actual=text,
                    expected="e.g. `12`, `9.0`, `R580` or `>=12.4,<13`",
                )
            bounds.append(Bound(match[1] or STARTS, parts))
        return cls(tuple(bounds))


def version_parts(version: object) -> tuple[int, ...] | None:
    """Returns the numbers of a dotted version; None for anything else."""
    return _parts_of(version) if isinstance(version, str) else None


@lru_cache(maxsize=4096)
def _parts_of(version: str) -> tuple[int, ...] | None:
    """Does it once for each text: a fleet compares a few versions a hundred thousand times."""
    if not _VERSION.fullmatch(version):
        return None
    return tuple(map(int, version.split(".")))


def _compared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Returns a negative number, zero or a positive one, as `a` is older, the same or newer."""
    for one, other in zip_longest(a, b, fillvalue=0):
        if one != other:
            return one - other
    return 0
