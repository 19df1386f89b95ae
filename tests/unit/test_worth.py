"""What engines save: whole GPUs, less builds and operation."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.errors import InputError
from enginekeeper.worth import HOURS_PER_MONTH, Traffic, worth

TRAFFIC = Traffic(tokens_per_second=100_000, baseline=2500, engine=3125, gpu_hour=2.0)


def test_gpus_are_counted_whole_and_paid_by_the_hour() -> None:
    found = worth(TRAFFIC)

    assert (found.baseline_gpus, found.engine_gpus) == (40, 32)
    assert found.gain == pytest.approx(0.25)
    assert found.gross_saving == pytest.approx(8 * 2.0 * HOURS_PER_MONTH)


def test_builds_and_operation_are_taken_off() -> None:
    costly = replace(TRAFFIC, build_gpu_hours=10, rounds_per_month=3, monthly_cost=500)

    found = worth(costly)

    assert found.cost == 10 * 3 * 2.0 + 500
    assert found.net_saving == pytest.approx(found.gross_saving - found.cost)


def test_servers_are_given_back_whole() -> None:
    found = worth(replace(TRAFFIC, baseline_gpus=8, engine_gpus=8))
    of_two = worth(replace(TRAFFIC, tokens_per_second=90_000, baseline_gpus=2, engine_gpus=8))

    assert (found.baseline_gpus, found.engine_gpus) == (40, 32)
    assert (of_two.baseline_gpus, of_two.engine_gpus) == (36, 32)


@given(
    st.floats(1e-6, 1e12), st.floats(1e-6, 1e12), st.floats(1e-6, 1e12), st.floats(1e-6, 1e12),
    st.integers(1, 4096),
)  # fmt: skip
def test_every_answer_to_usable_figures_is_finite(
    tokens: float, baseline: float, engine: float, price: float, gpus: int
) -> None:
    asked = Traffic(tokens_per_second=tokens, baseline=baseline, engine=engine, gpu_hour=price,
                    baseline_gpus=gpus, build_gpu_hours=1e12, rounds_per_month=1e12)  # fmt: skip

    assert all(value is None or isfinite(value) for value in worth(asked).as_dict().values())


def test_a_small_fleet_saves_no_whole_gpu() -> None:
    found = worth(replace(TRAFFIC, tokens_per_second=2000))

    assert (found.baseline_gpus, found.engine_gpus, found.gross_saving) == (1, 1, 0)


def test_no_gain_pays_for_what_costs_more_than_the_fleet() -> None:
    assert worth(replace(TRAFFIC, monthly_cost=1e9)).break_even_gain is None


@given(st.floats(1, 1e5), st.floats(0.1, 50))
def test_at_the_break_even_saving_and_cost_are_equal(cost: float, price: float) -> None:
    asked = replace(TRAFFIC, monthly_cost=cost, gpu_hour=price)
    gain = worth(asked).break_even_gain

    if gain is not None:
        spent = asked.tokens_per_second / asked.baseline * price * HOURS_PER_MONTH
        assert spent - spent / (1 + gain) == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("name", ["tokens_per_second", "baseline", "engine", "gpu_hour"])
@pytest.mark.parametrize(
    "value", [0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")]
)
def test_figures_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        worth(replace(TRAFFIC, **dict[str, Any]({name: value})))


@pytest.mark.parametrize("name", ["build_gpu_hours", "rounds_per_month", "monthly_cost"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_costs_are_finite_and_not_negative(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        worth(replace(TRAFFIC, **dict[str, Any]({name: value})))
