from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.reports.plots import LEAST, Axis, Curve, heat_map, lines, triangle


@given(
    st.floats(1e-9, 1e3),
    st.floats(1e-9, 1e3),
    st.sampled_from([Axis(1e-9, 1e3, 0.0, 100.0), Axis(1e-9, 1e3, 0.0, 100.0, log=True)]),
)
def test_greater_values_stand_further_along(a: float, b: float, axis: Axis) -> None:
    assert (axis.at(a) <= axis.at(b)) == (a <= b) or axis.at(a) == pytest.approx(axis.at(b))
    assert 0.0 <= axis.at(a) <= 100.0


def test_what_is_outside_stands_on_the_edge() -> None:
    axis = Axis(1.0, 10.0, 0.0, 100.0, log=True)

    assert (axis.at(0.0), axis.at(1e9)) == (0.0, 100.0)


@pytest.mark.parametrize(("low", "high"), [(1e-11, 1e-1), (2.0, 8.0), (8.0, 120.0), (5.0, 5.0)])
def test_every_tick_is_on_the_axis(low: float, high: float) -> None:
    ticks = Axis(low, high, 0.0, 100.0, log=True).ticks()

    assert len(ticks) >= 2
    assert all(low * 0.99 <= value <= high * 1.01 for value, _ in ticks)


def test_points_without_a_value_are_left_out() -> None:
    svg = lines("t", [Curve("a", "a", [(1, 2.0), (2, None), (3, 4.0)])], x_label="x")

    assert svg.count("<circle") == 2


def test_nothing_is_drawn_of_nothing() -> None:
    assert "<svg" not in lines("t", [Curve("a", "a", [(1, None)])], x_label="x")
    assert "<svg" not in heat_map("t", {})


def test_equal_arms_are_drawn_on_a_logarithmic_axis() -> None:
    svg = lines("t", [Curve("a", "a", [(1, 0.0), (2, 0.0)])], y_log=True, x_label="x")

    assert svg.count("<circle") == 2
    assert LEAST > 0


@pytest.mark.parametrize(
    ("gain", "ratio", "warmth"),
    [(0.0, 1.0, 0), (0.0029, 1.02, 0), (0.005, 1.0, 1), (-0.02, 1.0, 2), (0.0, 2.0, 3),
     (1.0, 50.0, 4)],
)  # fmt: skip
def test_a_tensor_is_coloured_by_the_worse_of_gain_and_error(
    gain: float, ratio: float, warmth: int
) -> None:
    assert f'class="heat{warmth}"' in heat_map("t", {"model.layers.3.mlp.up_proj": [gain, ratio]})


def test_a_side_that_was_not_measured_says_so() -> None:
    svg = triangle("t", {"recipe": 0.1, "fidelity": None})

    assert "recipe: 0.1 nats" in svg
    assert svg.count("not measured") == 2
