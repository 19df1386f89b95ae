from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from enginekeeper.validation.statistics import (
    FEWEST_PROMPTS,
    Estimate,
    estimate,
    hazard_exceeds,
)

CONFIDENCE = 0.99

prompts = st.lists(
    st.tuples(st.floats(0, 50), st.integers(1, 400)), min_size=FEWEST_PROMPTS, max_size=40
)


def bounds(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> Estimate:
    return bounds_within(sums, sizes, np.zeros(len(sums), dtype=np.int64))


def bounds_within(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], strata: NDArray[np.int64]
) -> Estimate:
    result = estimate(sums, sizes, strata, lower_confidence=CONFIDENCE, upper_confidence=CONFIDENCE)
    assert result is not None
    return result


@given(prompts)
def test_the_bounds_enclose_the_mean_per_position(data: list[tuple[float, int]]) -> None:
    sums, sizes = (np.asarray(column, dtype=np.float64) for column in zip(*data, strict=True))

    result = bounds(sums, sizes)

    assert result.value == pytest.approx(sums.sum() / sizes.sum())
    assert result.lower <= result.value + 1e-12
    assert result.upper >= result.value - 1e-12


@given(prompts)
def test_the_order_of_prompts_does_not_matter(data: list[tuple[float, int]]) -> None:
    sums, sizes = (np.asarray(column, dtype=np.float64) for column in zip(*data, strict=True))
    order = np.random.default_rng(len(data)).permutation(len(data))

    a, b = bounds(sums, sizes), bounds(sums[order], sizes[order])

    assert (a.lower, a.upper) == pytest.approx((b.lower, b.upper), rel=1e-6, abs=1e-9)


@given(prompts, st.floats(0.01, 100))
def test_the_bounds_scale_with_the_unit(data: list[tuple[float, int]], factor: float) -> None:
    sums, sizes = (np.asarray(column, dtype=np.float64) for column in zip(*data, strict=True))

    a, b = bounds(sums, sizes), bounds(sums * factor, sizes)

    assert b.upper == pytest.approx(a.upper * factor, rel=1e-6, abs=1e-9)


def test_skewness_moves_both_bounds_up() -> None:
    values = np.array([1.0] * 20 + [9.0] * 4)
    result = bounds(values, np.ones(24))

    assert result.upper - result.value > result.value - result.lower


def test_repeating_every_token_of_a_prompt_adds_no_certainty() -> None:
    values = np.arange(1.0, 25.0)

    few, many = bounds(values, np.ones(24)), bounds(values * 100, np.full(24, 100.0))

    assert (few.lower, few.upper) == pytest.approx((many.lower, many.upper))


def test_more_prompts_narrow_the_bounds() -> None:
    values = np.random.default_rng(0).lognormal(size=96)

    few, many = bounds(values[:24], np.ones(24)), bounds(values, np.ones(96))

    assert many.upper - many.lower < few.upper - few.lower


def test_prompts_that_agree_exactly_need_no_interval() -> None:
    result = bounds(np.full(24, 3.0), np.full(24, 10.0))

    assert result.lower == result.value == result.upper == pytest.approx(0.3)


def test_too_few_prompts_give_no_bound() -> None:
    sums, sizes = np.ones(FEWEST_PROMPTS), np.ones(FEWEST_PROMPTS)
    sizes[0] = 0.0

    strata = np.zeros(FEWEST_PROMPTS, dtype=np.int64)

    assert estimate(sums, sizes, strata, lower_confidence=0.99, upper_confidence=0.99) is None


@pytest.mark.parametrize(("variation", "nominal_misses"), [(0.4, 0.03), (1.0, 0.06)])
def test_the_bounds_cover_the_truth_of_skewed_small_samples(
    variation: float, nominal_misses: float
) -> None:
    generator = np.random.default_rng(3)
    sigma = np.sqrt(np.log(1 + variation**2))
    runs = [
        bounds(np.exp(sigma * generator.standard_normal(24) - sigma**2 / 2), np.ones(24))
        for _ in range(400)
    ]

    assert np.mean([run.upper < 1.0 for run in runs]) <= nominal_misses
    assert np.mean([run.lower > 1.0 for run in runs]) <= 0.015


def test_the_plan_asks_for_more_prompts_nearer_the_limit() -> None:
    result = bounds(np.arange(1.0, 25.0), np.ones(24))

    near = result.prompts_to_decide(result.value + 0.1, CONFIDENCE)
    far = result.prompts_to_decide(result.value + 1.0, CONFIDENCE)

    assert near is not None
    assert far is not None
    assert near > far > 24
    assert result.prompts_to_decide(result.value, CONFIDENCE) is None


def test_a_decode_fault_is_told_from_the_background_rate() -> None:
    assert hazard_exceeds(20, 60, 25, 2500) < 1e-6
    assert hazard_exceeds(3, 600, 25, 2500) > 0.5
    assert hazard_exceeds(0, 600, 0, 2500) == 1.0


def test_the_bounds_are_halls() -> None:
    values = np.random.default_rng(5).lognormal(size=24)
    a = float(stats.skew(values, bias=False)) / np.sqrt(24)

    def transformed(bound: float) -> float:
        t = (values.mean() - bound) / (values.std(ddof=1) / np.sqrt(24))
        return float(t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6)

    result = bounds(values, np.ones(24))

    quantile = float(stats.t.ppf(CONFIDENCE, 23))
    assert transformed(result.lower) == pytest.approx(quantile)
    assert transformed(result.upper) == pytest.approx(-quantile)


def test_differences_between_kinds_of_text_are_no_uncertainty() -> None:
    strata = np.repeat(np.arange(8), 3)
    noise = np.tile([-0.1, 0.0, 0.1], 8)
    level = np.repeat(np.arange(8.0), 3)

    within = bounds_within(level + noise, np.ones(24), strata)
    pooled = bounds(level + noise, np.ones(24))

    assert within.value == pooled.value
    assert within.upper - within.lower < (pooled.upper - pooled.lower) / 10


def test_stratified_bounds_have_the_textbook_error() -> None:
    strata = np.repeat(np.arange(4), 6)
    values = np.random.default_rng(2).normal(size=24)

    result = bounds_within(values, np.ones(24), strata)

    squares = [values[strata == h].var(ddof=1) for h in range(4)]
    assert result.spread == pytest.approx(float(np.sqrt(np.mean(squares))))


@pytest.mark.parametrize(
    "strata",
    [[0] * 23 + [1], list(range(24)), [0] * 11 + [1] * 11 + [2, 3]],
    ids=["one alone", "all alone", "two alone"],
)
def test_a_kind_of_text_with_one_prompt_joins_another(strata: list[int]) -> None:
    values = np.random.default_rng(2).normal(size=24)

    result = bounds_within(values, np.ones(24), np.asarray(strata))

    assert np.isfinite([result.lower, result.upper]).all()
    assert result.lower < result.value < result.upper


def test_the_names_of_the_kinds_do_not_matter() -> None:
    values = np.random.default_rng(2).lognormal(size=24)
    strata = np.repeat(np.arange(8), 3)

    one = bounds_within(values, np.ones(24), strata)
    two = bounds_within(values, np.ones(24), 7 - strata)

    assert (one.lower, one.upper) == pytest.approx((two.lower, two.upper))


def test_each_kind_of_text_costs_a_degree_of_freedom() -> None:
    values = np.random.default_rng(2).normal(size=24)
    pairs = np.repeat(np.arange(12), 2)  # two prompts are symmetric: the bound is Student's

    result = bounds_within(values, np.ones(24), pairs)

    half = float(stats.t.ppf(CONFIDENCE, 12)) * result.spread / np.sqrt(24)
    assert result.upper - result.value == pytest.approx(half)
    assert result.value - result.lower == pytest.approx(half)
