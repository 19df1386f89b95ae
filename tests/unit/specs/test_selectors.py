"""Selectors pick variants by identifier."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.errors import InputError, MissingError
from enginekeeper.specs.loader import parse_spec
from enginekeeper.specs.matrix import expand
from enginekeeper.specs.selectors import Selector, alternatives, selection
from enginekeeper.specs.variants import Variant

SPEC = b"""
model: {name: smollm2-135m, path: x}
targets: [cpu, h100-sxm]
recipes: [none, w8a16, w8a8_sq, w4a16, fp8]
"""


def variants() -> tuple[Variant, ...]:
    return expand(parse_spec(SPEC, "spec.yaml"))


def picked(only: list[str], skip: list[str] | None = None) -> list[str]:
    return [str(v.identifier) for v in selection(only, skip or []).of(variants())]


def test_no_selector_picks_all_in_order() -> None:
    assert picked([]) == [str(variant.identifier) for variant in variants()]


def test_a_star_crosses_dots() -> None:
    assert picked(["smollm2-*.w8*"]) == [
        "smollm2-135m.w8a16.tp1.cpu",
        "smollm2-135m.w8a8_sq.tp1.cpu",
        "smollm2-135m.w8a16.tp1.h100-sxm",
        "smollm2-135m.w8a8_sq.tp1.h100-sxm",
    ]


def test_braces_are_alternatives_and_skip_takes_away() -> None:
    assert picked(["*.{none,w{8,4}a16}.*"], ["*.h100-*"]) == [
        "smollm2-135m.none.tp1.cpu",
        "smollm2-135m.w8a16.tp1.cpu",
        "smollm2-135m.w4a16.tp1.cpu",
    ]


def test_several_patterns_add_up() -> None:
    assert len(picked(["*.none.*", "*.fp8.*"])) == 4


@pytest.mark.parametrize("field", ["only", "skip"])
def test_an_idle_selector_offers_near_names(field: str) -> None:
    patterns = {field: ["smollm2-135m.w8a61.tp1.cpu"]}

    with pytest.raises(MissingError) as caught:
        selection(**patterns).of(variants())

    assert caught.value.expected is not None
    assert str(caught.value.expected).startswith("smollm2-135m.w8a16.tp1.cpu")
    assert "and 5 more" in str(caught.value.expected)


def test_selectors_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(MissingError, match="leave no variant"):
        picked(["*.none.*"], ["*.none.*"])


@pytest.mark.parametrize("pattern", ["{a", "a}", "{a,{b}", "}{", "a}b{c}"])
def test_unbalanced_braces_are_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        Selector(pattern)


@pytest.mark.parametrize("pattern", ["{a,b}" * 12, "x" * 1001])
def test_a_pattern_cannot_explode(pattern: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        Selector(pattern)


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        ("ab", ["ab"]),
        ("a{b,c}d", ["abd", "acd"]),
        ("{a,}b", ["ab", "b"]),
        ("{a,b}{c,d}", ["ac", "ad", "bc", "bd"]),
        ("x{a{b,c},d}", ["xab", "xac", "xd"]),
        ("{a}", ["a"]),
        ("a,b", ["a,b"]),
        ("{a,a}", ["a"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, plain: list[str]) -> None:
    assert list(alternatives(pattern)) == plain


@settings(deadline=None)
@given(st.text("ab{},*.?[", max_size=24))
def test_any_pattern_selects_or_is_refused(pattern: str) -> None:
    try:
        selector = Selector(pattern)
    except InputError:
        return
    assert isinstance(selector("a.b"), bool)


@settings(deadline=None)
@given(st.lists(st.lists(st.text("abc.", max_size=3), min_size=1, max_size=3), max_size=4))
def test_a_selector_picks_exactly_its_alternatives(groups: list[list[str]]) -> None:
    selector = Selector("".join("{" + ",".join(group) + "}" for group in groups))
    expected = {""}
    for group in groups:
        expected = {before + choice for before in expected for choice in group}

    assert set(alternatives(selector.pattern)) == expected
    assert all(selector(word) for word in expected)
    assert not selector("z" + next(iter(expected)))
