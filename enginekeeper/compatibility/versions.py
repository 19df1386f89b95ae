"""Versions compared number by number: 570.86.10 is older than 570.124.06, and 9 than 10."""

from __future__ import annotations

from enginekeeper.errors import InputError
from registry.versions import STARTS, Bound, version_parts


def numbers(version: str) -> tuple[int, ...]:
    """Returns a dotted version's numbers without trailing zeros; raises InputError otherwise."""
    parts = version_parts(version)
    if parts is None:
        raise InputError("not a version", actual=version[:80], expected="numbers joined by dots")
    while len(parts) > 1 and parts[-1] == 0:
        parts = parts[:-1]
    return parts


def older(version: str, than: str) -> bool:
    """Returns whether a version comes before another, field by field."""
    return numbers(version) < numbers(than)


def major(version: str) -> int:
    """Returns a version's first number."""
    return numbers(version)[0]


def readable(version: object) -> bool:
    """Returns whether something is a version that the functions here can compare."""
    return version_parts(version) is not None


def same(a: str, b: str) -> bool:
    """Returns whether two versions are one: `13.0` and `13.0.0` are."""
    return numbers(a) == numbers(b)


def known_alike(built: object, offered: object) -> bool:
    """Says whether all that is known of one version is so in another: `10.13` in `10.13.3.9`.

    What is no version is alike to nothing.
    """
    parts, found = version_parts(built), version_parts(offered)
    return parts is not None and found is not None and Bound(STARTS, parts).holds(found)


def has_minor(version: str) -> bool:
    """Says whether a version has more than its first number: of `13` the minor is not known."""
    return "." in version
