from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from enginekeeper.validation.checks import (
    Check,
    Limit,
    Quantity,
    Rule,
    bounded,
    ratio_of,
    rounded,
    shown,
)
from enginekeeper.validation.sequential import CLIP, lower_bound, upper_bound

SPREAD = np.array([0.8, 0.9, 1.0, 1.1, 1.2] * 5)


def quantity(sums: np.ndarray[tuple[int], np.dtype[np.float64]] = SPREAD) -> Quantity:
    return Quantity(
        "line.what", "a mean", "nats", sums, np.ones(len(sums)), np.zeros(len(sums), int)
    )


@pytest.mark.parametrize(
    ("limit", "at_most", "at_least"),
    [(1.5, "pass", "fail"), (1.0, "inconclusive", "inconclusive"), (0.5, "fail", "pass")],
)
def test_a_check_passes_fails_or_doubts_by_its_bounds(
    limit: float, at_most: str, at_least: str
) -> None:
    assert bounded(quantity(), Limit(limit, "at most", 0.99, 1)).outcome == at_most
    assert bounded(quantity(), Limit(limit, "at least", 0.99, 1)).outcome == at_least


def test_a_value_inside_its_limit_is_no_pass_while_its_bound_is_outside() -> None:
    check = bounded(quantity(), Limit(1.01, "at most", 0.99, 1))

    assert check.value is not None
    assert check.upper is not None
    assert check.value < 1.01 < check.upper
    assert check.outcome == "inconclusive"


def test_a_share_inside_its_limit_is_no_pass_while_its_bound_is_outside() -> None:
    check = bounded(quantity(), Limit(0.99, "at least", 0.99, 1))

    assert check.lower is not None
    assert check.lower < 0.99
    assert check.outcome == "inconclusive"


def test_checks_of_a_line_share_the_error_of_a_failure_not_of_a_pass() -> None:
    alone = bounded(quantity(), Limit(1.0, "at most", 0.99, 1))
    together = bounded(quantity(), Limit(1.0, "at most", 0.99, 5))

    assert alone.upper == together.upper
    assert alone.lower is not None
    assert together.lower is not None
    assert together.lower < alone.lower
    assert Limit(1.0, "at most", 0.99, 5).failure_confidence == pytest.approx(0.998)


def test_a_share_is_failed_by_its_upper_bound() -> None:
    alone = bounded(quantity(), Limit(1.0, "at least", 0.99, 1))
    together = bounded(quantity(), Limit(1.0, "at least", 0.99, 5))

    assert alone.lower == together.lower
    assert alone.upper is not None
    assert together.upper is not None
    assert together.upper > alone.upper


def test_doubt_says_how_many_prompts_would_decide_on_the_scale_of_the_mean() -> None:
    logs = Quantity(
        "line.ratio", "a ratio", "", SPREAD - 1.0, np.ones(25), np.zeros(25, int), ratio_of
    )

    check = bounded(logs, Limit(1.01, "at most", 0.99, 1))

    assert check.outcome == "inconclusive"
    assert check.value == pytest.approx(1.0)
    assert check.note is not None
    needed = (2.3263 * float((SPREAD - 1.0).std(ddof=1)) / math.log(1.01)) ** 2
    assert f"about {math.ceil(needed)} prompts" in check.note


def test_a_value_on_its_limit_is_never_decided_by_more_prompts() -> None:
    check = bounded(quantity(), Limit(float(SPREAD.mean()), "at most", 0.99, 1))

    assert check.note == "the value is exactly the limit: more prompts would not decide"


def test_too_few_prompts_decide_nothing() -> None:
    check = bounded(quantity(SPREAD[:5]), Limit(100.0, "at most", 0.99, 1))

    assert check.outcome == "inconclusive"
    assert check.note is not None
    assert check.note.startswith("5 prompts have positions to compare")


def test_what_is_only_shown_has_bounds_and_no_limit() -> None:
    check = shown(quantity(), 0.99)

    assert check.outcome == "shown"
    assert check.limit is None
    assert check.lower is not None
    assert check.upper is not None
    assert check.lower < 1.0 < check.upper


def test_no_bound_is_shown_below_what_there_can_be() -> None:
    noisy = Quantity(
        "line.kl", "a divergence", "nats", SPREAD - 0.99, np.ones(25), np.zeros(25, int), least=0.0
    )

    assert bounded(noisy, Limit(1.0, "at most", 0.99, 1)).lower == 0.0
    assert shown(noisy, 0.99).lower == 0.0


def test_numbers_are_rounded_the_same_everywhere() -> None:
    assert rounded(1 / 3) == 0.333333
    assert rounded(1.23456789e-9) == 1.23457e-9
    assert rounded(None) is None
    assert Check("a", "pass", "b", value=2 / 3).as_dict()["value"] == 0.666667


ON_THE_WAY = Rule(anytime=True, pass_share=0.5, fail_share=0.5)


def held(
    value: float,
    limit: Limit,
    *,
    prompts: int = 60,
    least: float = 0.0,
    show: Callable[[float], float] = float,
) -> Check:
    """Judges prompts of 10 positions that are all alike."""
    sums = np.full(prompts, 10.0 * value)
    sizes, strata = np.full(prompts, 10.0), np.zeros(prompts, int)
    return bounded(Quantity("line.what", "a mean", "nats", sums, sizes, strata, show, least), limit)


@pytest.mark.parametrize(
    ("value", "outcome"), [(0.0, "pass"), (0.3, "pass"), (1.0, "inconclusive"), (4.0, "fail")]
)
def test_on_the_way_a_check_goes_by_bounds_that_hold_at_every_moment(
    value: float, outcome: str
) -> None:
    check = held(value, Limit(1.0, "at most", 0.99, 4, rule=ON_THE_WAY))

    assert check.outcome == outcome
    assert check.value == pytest.approx(value)
    x = np.full(60, value)
    assert check.lower == pytest.approx(lower_bound(x, alpha=0.01 * 0.5 / 4))
    assert check.upper == pytest.approx(upper_bound(x, ceiling=CLIP, alpha=0.005))


def test_on_the_way_the_unit_is_the_prompt_whatever_its_length() -> None:
    sizes = np.array([10.0] * 30 + [1000.0] * 2)
    sums = np.array([0.0] * 30 + [5000.0] * 2)
    quantity = Quantity("line.what", "a mean", "nats", sums, sizes, np.zeros(32, int), least=0.0)

    check = bounded(quantity, Limit(1.0, "at most", 0.99, 1, rule=ON_THE_WAY))

    assert check.value == pytest.approx(10 / 32)


@pytest.mark.parametrize(
    ("share", "outcome"), [(1.0, "pass"), (0.85, "inconclusive"), (0.2, "fail")]
)
def test_on_the_way_a_share_is_bounded_by_what_is_missing_from_it(
    share: float, outcome: str
) -> None:
    check = held(share, Limit(0.85, "at least", 0.99, 3, rule=ON_THE_WAY))

    assert check.outcome == outcome
    assert check.value == pytest.approx(share)
    assert check.lower is None or check.lower <= share
    assert check.upper is not None
    assert check.upper >= share


def test_on_the_way_a_loss_that_may_be_negative_is_bounded_from_above_only() -> None:
    limit = Limit(1.10, "at most", 0.99, 3, rule=ON_THE_WAY)

    same = held(0.0, limit, least=-math.inf, show=ratio_of)
    worse = held(5.0, limit, least=-math.inf, show=ratio_of)

    assert (same.outcome, same.lower) == ("pass", None)
    assert same.upper is not None
    assert 1.0 < same.upper < 1.10
    assert (worse.outcome, worse.upper) == ("inconclusive", None)


def test_doubt_on_the_way_says_how_many_tokens_would_decide() -> None:
    check = held(0.7, Limit(1.0, "at most", 0.99, 4, rule=ON_THE_WAY), prompts=20)

    assert check.outcome == "inconclusive"
    assert check.note is not None
    found = re.fullmatch(
        r"about (\d+) prompts more \(some (\d+) tokens\) would .* were 20", check.note
    )
    assert found is not None
    assert int(found[2]) == 10 * int(found[1])


def test_no_positions_decide_nothing_on_the_way() -> None:
    empty = Quantity("line.what", "a mean", "nats", np.zeros(3), np.zeros(3), np.zeros(3, int))

    check = bounded(empty, Limit(1.0, "at most", 0.99, 4, rule=ON_THE_WAY))

    assert (check.outcome, check.prompts) == ("inconclusive", 0)


def test_a_rule_spends_its_share_of_both_errors() -> None:
    whole = Limit(1.0, "at most", 0.99, 4)
    half = Limit(1.0, "at most", 0.99, 4, rule=Rule(pass_share=0.5, fail_share=0.5))

    assert (whole.pass_confidence, whole.failure_confidence) == pytest.approx((0.99, 0.9975))
    assert (half.pass_confidence, half.failure_confidence) == pytest.approx((0.995, 0.99875))
    narrow, wide = bounded(quantity(), whole), bounded(quantity(), half)
    assert narrow.upper is not None
    assert wide.upper is not None
    assert wide.upper > narrow.upper
