from __future__ import annotations

import math

import numpy as np
import pytest

from enginekeeper.validation.checks import Check, Limit, Quantity, bounded, ratio_of, rounded, shown

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
