"""Rows that hold the recipe's very numbers are seen to, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.validation.numerics.formats import (
    Floats,
    decode_e2m1,
    encode_e4m3,
    narrow,
    round_to,
    unpack_e2m1_columns,
    widen,
)
from enginekeeper.validation.numerics.recipes import (
    LinearRecipe,
    WeightFormat,
    quantize_rows,
    scales_of,
)
from enginekeeper.validation.numerics.same_numbers import hold
from tests.factories.single_weights import as_stored

QUANTIZED = (
    WeightFormat.INT8_CHANNEL,
    WeightFormat.INT4_GROUP,
    WeightFormat.FP8_CHANNEL,
    WeightFormat.NVFP4,
)


def meant(kind: WeightFormat, numbers: npt.NDArray[Any]) -> Floats:
    """Returns the codes that `as_stored` has made of, rounded to the format."""
    if kind is WeightFormat.NVFP4:
        return decode_e2m1(unpack_e2m1_columns(numbers))
    return widen(numbers)


def recipe_of(kind: WeightFormat) -> LinearRecipe:
    return LinearRecipe(kind, group_size=16)


def weight_of(seed: int, *, bits: int) -> Floats:
    """Weights of so few mantissa bits that many are ties between codes."""
    random = np.random.default_rng(seed)
    values = np.ldexp(random.integers(-(2**bits), 2**bits + 1, (6, 32)), random.integers(-9, 1))
    return round_to(values.astype(np.float32), "bfloat16")


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(QUANTIZED), st.integers(1, 8))
def test_what_the_recipe_makes_is_seen_to_be_it(seed: int, kind: WeightFormat, bits: int) -> None:
    weight = weight_of(seed, bits=bits)
    made = quantize_rows(recipe_of(kind), weight, 1.0, "bfloat16")
    assert hold(kind, weight, made.scales, as_stored(kind, made.codes))


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(QUANTIZED),
    st.integers(1, 8),
    st.integers(0, 6 * 32 - 1),
    st.floats(-1.2, 1.2),
)
def test_no_other_number_passes(
    seed: int, kind: WeightFormat, bits: int, place: int, factor: float
) -> None:
    weight = weight_of(seed, bits=bits)
    made = quantize_rows(recipe_of(kind), weight, 1.0, "bfloat16")
    other = made.codes.copy()
    other.reshape(-1)[place] = other.reshape(-1)[place] * factor + factor
    numbers = as_stored(kind, other)
    same = np.array_equal(meant(kind, numbers), made.codes)
    assert hold(kind, weight, made.scales, numbers) == same


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_number_of_the_other_sign_does_not_pass(kind: WeightFormat) -> None:
    weight = round_to(np.linspace(1, 2, 64, dtype=np.float32).reshape(2, 32), "bfloat16")
    made = quantize_rows(recipe_of(kind), weight, 2.0, "bfloat16")
    codes = made.codes.copy()
    codes[1, 3] *= -1
    assert not hold(kind, weight, made.scales, as_stored(kind, codes))


def test_bytes_that_stand_for_no_number_do_not_pass() -> None:
    weight = np.full((1, 16), 448, np.float32)
    scales = np.ones((1, 1), np.float32)
    for byte in (0x7F, 0xFF):
        numbers = np.full((1, 16), byte, np.uint8)
        assert not hold(WeightFormat.FP8_CHANNEL, weight, scales, numbers)


@pytest.mark.parametrize("scale", [0.0, 1e-44, np.nan, np.inf])
def test_nothing_is_said_under_a_scale_that_is_none(scale: float) -> None:
    scales = np.full((1, 1), scale, np.float32)
    numbers, weight = np.zeros((1, 16), np.int8), np.zeros((1, 16), np.float32)
    assert not hold(WeightFormat.INT8_CHANNEL, weight, scales, numbers)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_scales_are_those_of_the_widened_numbers(kind: WeightFormat) -> None:
    weight = weight_of(3, bits=8)
    ours = scales_of(recipe_of(kind), narrow(weight, "bfloat16"), 1.0, "bfloat16")
    assert np.array_equal(ours, scales_of(recipe_of(kind), weight, 1.0, "bfloat16"))


def test_a_tie_of_fp8_goes_to_the_even_number_and_to_no_other() -> None:
    weight, scales = np.array([[448, 17, -19, 0]], np.float32), np.ones((1, 1), np.float32)
    for numbers, passes in (([448, 16, -20, 0], True), ([448, 18, -20, 0], False)):
        made = encode_e4m3(np.array([numbers], np.float32))
        assert hold(WeightFormat.FP8_CHANNEL, weight, scales, made) == passes
