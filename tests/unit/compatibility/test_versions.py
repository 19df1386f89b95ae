"""Versions are compared number by number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.compatibility.versions import major, numbers, older, readable
from enginekeeper.errors import InputError

_NUMBERS = st.lists(st.integers(0, 999), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [
        ("570.86.10", "570.124.06", True),
        ("9.0", "10.0", True),
        ("535.104.05", "580", True),
        ("580", "580.0", False),
        ("580.65.06", "580", False),
        ("1000.1", "580", False),
        ("527.40", "527.41", True),
    ],
)
def test_each_field_counts(version: str, than: str, *, expected: bool) -> None:
    assert older(version, than) is expected


@settings(deadline=None)
@given(_NUMBERS, _NUMBERS)
def test_order_is_that_of_the_numbers(first: list[int], second: list[int]) -> None:
    a, b = ".".join(map(str, first)), ".".join(map(str, second))

    assert older(a, b) + older(b, a) + (numbers(a) == numbers(b)) == 1
    assert not older(a, a)
    assert major(a) == first[0]


@pytest.mark.parametrize(
    "text", ["", "R580", "580.", ".1", "5 8", "\uff11.0", "9" * 5000, "1." * 20 + "1"]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a version"):
        numbers(text)


@settings(deadline=None)
@given(
    st.text()
    | st.from_regex(r"[0-9.]{1,40}", fullmatch=True)
    | st.integers(1, 5000).map("9".__mul__)
)
def test_what_is_readable_can_be_compared(text: str) -> None:
    if readable(text):
        assert not older(text, text)
    else:
        with pytest.raises(InputError):
            numbers(text)
