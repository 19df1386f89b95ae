from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from enginekeeper.validation.sequential import (
    ABOVE,
    BELOW,
    CLIP,
    log_wealth_above,
    log_wealth_below,
    lower_bound,
    prompts_to_decide,
    upper_bound,
)

ALPHA = 0.01

amounts = st.lists(st.floats(0.0, 50.0), min_size=1, max_size=60).map(np.asarray)
levels = st.floats(1e-6, 0.5)


def skewed(mean: float, variation: float, count: int, seed: int) -> NDArray[np.float64]:
    sigma = math.sqrt(math.log(1 + variation**2))
    noise = np.random.default_rng(seed).standard_normal(count)
    return mean * np.exp(sigma * noise - sigma**2 / 2)


@given(amounts, levels)
def test_the_bounds_enclose_the_sample_mean(x: NDArray[np.float64], alpha: float) -> None:
    assert 0.0 <= lower_bound(x, alpha=alpha) <= x.mean() * (1 + 1e-9)
    assert upper_bound(x, ceiling=51.0, alpha=alpha) >= x.mean() * (1 - 1e-9)


@given(amounts, st.floats(0.01, 100))
def test_the_bounds_scale_with_the_unit(x: NDArray[np.float64], unit: float) -> None:
    lower, upper = lower_bound(x, alpha=ALPHA), upper_bound(x, ceiling=60.0, alpha=ALPHA)

    assert lower_bound(x * unit, alpha=ALPHA) == pytest.approx(lower * unit, rel=1e-6, abs=1e-9)
    scaled = upper_bound(x * unit, ceiling=60.0 * unit, alpha=ALPHA)
    assert scaled == pytest.approx(upper * unit, rel=1e-6)


@given(amounts)
def test_the_order_of_prompts_does_not_matter(x: NDArray[np.float64]) -> None:
    assert lower_bound(x[::-1], alpha=ALPHA) == pytest.approx(lower_bound(x, alpha=ALPHA), rel=1e-9)


@given(amounts, levels, st.integers(1, 7))
def test_pending_prompts_only_widen_the_bounds(
    x: NDArray[np.float64], alpha: float, pending: int
) -> None:
    assert lower_bound(x, alpha=alpha, pending=pending) <= lower_bound(x, alpha=alpha)
    open_round = upper_bound(x, ceiling=51.0, alpha=alpha, pending=pending)
    assert open_round >= upper_bound(x, ceiling=51.0, alpha=alpha)


@given(amounts, st.lists(st.floats(0.0, 50.0), max_size=7).map(np.asarray), st.floats(0.01, 40.0))
def test_what_is_decided_inside_a_round_the_rest_of_it_cannot_take_back(
    x: NDArray[np.float64], rest: NDArray[np.float64], m: float
) -> None:
    whole = np.concatenate([x, rest])

    early = log_wealth_above(x, m, pending=len(rest))
    assert log_wealth_above(whole, m) >= early - 1e-9
    early = log_wealth_below(x, m, 50.0, pending=len(rest))
    assert log_wealth_below(whole, m, 50.0) >= early - 1e-9


@given(st.lists(st.floats(0.0, 10.0), min_size=2, max_size=8).map(np.asarray))
def test_a_round_whose_mean_is_within_the_limit_wins_nothing_on_average(
    means: NDArray[np.float64],
) -> None:
    """The inequality of the means, for kinds of text that differ however they like."""
    m = max(float(means.mean()), 1e-3)

    assert log_wealth_above(means, m) <= 1e-9
    if means.max() > 0:
        assert log_wealth_below(means, float(means.mean()), float(means.max()) + 1.0) <= 1e-9


def test_expected_wealth_of_one_prompt_is_what_was_staked() -> None:
    coin = [(0.0, 0.9), (10.0, 0.1)]  # mean 1

    expected = sum(p * math.exp(log_wealth_above(np.array([x]), 1.0)) for x, p in coin)
    assert expected == pytest.approx(1.0)
    expected = sum(p * math.exp(log_wealth_below(np.array([x]), 1.0, 10.0)) for x, p in coin)
    assert expected == pytest.approx(1.0)


def test_the_bounds_are_where_the_wealth_is_one_over_alpha() -> None:
    x = skewed(1.0, 0.7, 40, seed=1)

    lower, upper = lower_bound(x, alpha=ALPHA), upper_bound(x, ceiling=CLIP, alpha=ALPHA)

    assert log_wealth_above(x, lower) == pytest.approx(-math.log(ALPHA), abs=1e-6)
    assert log_wealth_below(x, upper, CLIP) == pytest.approx(-math.log(ALPHA), abs=1e-6)


def test_a_number_above_the_ceiling_leaves_no_upper_bound() -> None:
    x = np.zeros(100)
    assert upper_bound(x, ceiling=6.0, alpha=ALPHA) < 1.0

    x[50] = 6.1

    assert upper_bound(x, ceiling=6.0, alpha=ALPHA) == math.inf


def test_a_number_that_is_none_leaves_no_bound() -> None:
    x = np.array([0.0, math.nan])

    assert upper_bound(x, ceiling=6.0, alpha=ALPHA) == math.inf
    with pytest.raises(ValueError, match="finite"):
        lower_bound(np.array([math.inf, 1.0]), alpha=ALPHA)


def test_numbers_below_zero_are_winsorised_and_never_help_more_than_the_ceiling_allows() -> None:
    x = np.full(40, 0.5)
    x[0] = -1e9

    assert upper_bound(x, ceiling=6.0, alpha=ALPHA) == pytest.approx(
        upper_bound(np.maximum(x, -6.0), ceiling=6.0, alpha=ALPHA)
    )


def test_nothing_is_known_of_nothing() -> None:
    none = np.array([])

    assert lower_bound(none, alpha=ALPHA) == 0.0
    assert upper_bound(none, ceiling=6.0, alpha=ALPHA) == math.inf
    assert lower_bound(np.zeros(50), alpha=ALPHA) == 0.0


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_an_error_rate_is_between_none_and_all(alpha: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        lower_bound(np.ones(3), alpha=alpha)


@pytest.mark.parametrize("variation", [0.4, 1.0, 4.0])
def test_a_mean_at_the_limit_is_hardly_ever_refuted_at_any_time(variation: float) -> None:
    """Looked at after each of 40 prompts, at 5 %: Ville's bound, not that of one look."""
    runs, level = 300, -math.log(0.05)
    left = float(np.minimum(skewed(1.0, variation, 400_000, seed=0), CLIP).mean())
    above = below = 0
    for seed in range(runs):
        x = skewed(1.0, variation, 40, seed)
        y = np.minimum(x, CLIP) / left  # the upper bound is of what is left under the ceiling
        above += any(log_wealth_above(x[:n], 1.0) >= level for n in range(1, 41))
        below += any(log_wealth_below(y[:n], 1.0, CLIP / left) >= level for n in range(1, 41))

    assert above <= 0.05 * runs
    assert below <= 0.05 * runs


@pytest.mark.parametrize(("mean", "most"), [(40.0, 5), (10.0, 8), (2.5, 32)])
def test_a_gross_fault_takes_few_prompts(mean: float, most: int) -> None:
    needed = []
    for seed in range(50):
        x = skewed(mean, 0.7, 64, seed)
        refuted = (
            n for n in range(1, 65)
            if log_wealth_above(x[:n], 1.0, pending=-n % 8) >= -math.log(0.00125)
        )  # fmt: skip
        needed.append(next(refuted))

    assert np.median(needed) <= most


def test_a_plan_counts_prompts_and_gives_up_at_the_limit() -> None:
    settings = {"limit": 1.0, "alpha": 0.00125, "beta": 0.005, "ceiling": CLIP}

    near = prompts_to_decide(skewed(0.8, 0.3, 24, seed=2), **settings)
    far = prompts_to_decide(skewed(0.2, 0.3, 24, seed=2), **settings)
    high = prompts_to_decide(skewed(2.0, 0.3, 24, seed=2), **settings)

    assert near is not None
    assert far is not None
    assert high is not None
    assert near > far >= 1
    assert prompts_to_decide(np.ones(24), **settings) is None


def test_all_stakes_leave_something_to_bet_with() -> None:
    for stakes in (ABOVE, BELOW):
        assert 0.0 < stakes.min() <= stakes.max() < 1.0
