"""Versions are numbers: `9.10` is newer than `9.9`, and `12` means every 12.x."""

from __future__ import annotations

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidRecordError
from registry.versions import VersionRange, version_parts

VERSIONS = st.lists(st.integers(0, 1000), min_size=1, max_size=4).map(
    lambda parts: ".".join(map(str, parts))
)


def newer_or_same(a: str, b: str) -> bool:
    both = zip_longest(map(int, a.split(".")), map(int, b.split(".")), fillvalue=0)
    return next((one > other for one, other in both if one != other), True)


@pytest.mark.parametrize(
    ("text", "version", "inside"),
    [
        ("12", "12.9", True), ("12", "12", True), ("12", "120.1", False), ("12", "1.2", False),
        ("9.0", "9.0", True), ("9.0", "9", True), ("9.0", "9.1", False), ("9.1", "9.10", False),
        ("R580", "580.95.05", True), ("580.95", "580.95.05", True), ("580.9", "580.95.05", False),
        (">=12.9", "12.10", True), (">12.9", "12.9", False), (">12.9", "12.9.1", True),
        ("<13", "12.99", True), ("<=13", "13.0", True), (">=12.4,<13", "12.3", False),
        (">= 12.4 , < 13", "12.4", True), ("==12.4", "12.4.0", True), ("=12.4", "12.4.1", False),
        (">=1", "unknown", False), (">=1", "580.95-server", False), (">=0", "", False),
    ],
)  # fmt: skip
def test_what_a_range_holds(text: str, version: str, inside: bool) -> None:  # noqa: FBT001
    assert (version in VersionRange.parse(text)) is inside


@pytest.mark.parametrize("text", ["", "R", "twelve", ">", "12,", "1..2", "12-13", ">=12 <13", "١٢"])
def test_what_is_no_range_is_refused_and_says_where(text: str) -> None:
    with pytest.raises(InvalidRecordError, match="not a version") as caught:
        VersionRange.parse(text, where="--cuda")
    assert caught.value.where == "--cuda"


@given(VERSIONS, VERSIONS)
def test_a_bound_agrees_with_the_numbers(a: str, b: str) -> None:
    assert (a in VersionRange.parse(f">={b}")) is newer_or_same(a, b)
    assert (a in VersionRange.parse(f"<{b}")) is not newer_or_same(a, b)
    assert (a in VersionRange.parse(f"<={b}")) is newer_or_same(b, a)


@given(VERSIONS, VERSIONS)
def test_a_version_alone_means_all_that_start_with_it(a: str, b: str) -> None:
    parts, start = version_parts(a), version_parts(b)
    assert parts is not None
    assert start is not None
    filled = parts + (0,) * len(start)
    assert (a in VersionRange.parse(b)) is (filled[: len(start)] == start)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_joined_bounds_are_what_meets_both(a: str, low: str, high: str) -> None:
    both = a in VersionRange.parse(f">={low},<{high}")
    assert both is (a in VersionRange.parse(f">={low}") and a in VersionRange.parse(f"<{high}"))


@given(st.text(max_size=12))
def test_any_text_is_a_range_or_is_refused(text: str) -> None:
    try:
        versions = VersionRange.parse(text)
    except InvalidRecordError:
        return
    assert len(versions.bounds) == text.count(",") + 1
