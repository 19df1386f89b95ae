"""Rounding and packing, against ml_dtypes and against themselves."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats

matrices = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def floats(limit: float) -> st.SearchStrategy[Floats]:
    return arrays.arrays(np.float32, matrices, elements=st.floats(-limit, limit, width=32))


def even(shape: tuple[int, ...]) -> tuple[int, int]:
    return 2 * shape[0], 2 * shape[1]


@settings(deadline=None)
@given(floats(448.0))
def test_e4m3_rounds_as_ml_dtypes_does(values: Floats) -> None:
    expected = values.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(formats.round_e4m3(values), expected)


def test_a_number_that_rounds_to_zero_keeps_its_sign() -> None:
    rounded = formats.round_e4m3(np.array([-1e-5, 1e-5, -0.0], np.float32))
    assert np.signbit(rounded).tolist() == [True, False, True]


@settings(deadline=None)
@given(floats(448.0))
def test_e4m3_is_the_nearest_number_and_stays_itself(values: Floats) -> None:
    rounded = formats.round_e4m3(values)
    table = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    table = table[np.isfinite(table)]
    nearest = np.abs(values[..., None] - table).min(axis=-1)
    assert np.array_equal(np.abs(values - rounded), nearest)
    assert np.array_equal(formats.round_e4m3(rounded), rounded)


@settings(deadline=None)
@given(floats(12.0))
def test_e2m1_rounds_as_ml_dtypes_does(values: Floats) -> None:
    expected = np.clip(values, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert np.array_equal(formats.decode_e2m1(formats.encode_e2m1(values)), expected)
    assert np.array_equal(formats.round_e2m1(values), expected)


def test_every_number_of_e4m3_and_every_tie_between_two_is_rounded_as_it_is_stored() -> None:
    table = formats.decode_e4m3(np.arange(127, dtype=np.uint8))
    values = np.concatenate([table, (table[:-1] + table[1:]) / 2])
    values = np.concatenate([values, -values]).reshape(1, -1)
    stored = formats.decode_e4m3(formats.encode_e4m3(values))
    rounded = formats.round_e4m3(values)
    assert np.array_equal(rounded, stored)
    assert np.array_equal(np.signbit(rounded), np.signbit(stored))


@pytest.mark.parametrize("value", [464.1, 1e30, np.inf, -np.inf, np.nan])
def test_what_e4m3_cannot_hold_is_nan_whatever_stands_beside_it(value: float) -> None:
    rounded = formats.round_e4m3(np.array([[1.0625, value]], np.float32))
    assert np.array_equal(rounded, np.array([[1.0, np.nan]], np.float32), equal_nan=True)


@pytest.mark.parametrize(("value", "code"), [(0.25, 0), (0.75, 2), (1.25, 2), (5.0, 6), (9.0, 7)])
def test_e2m1_ties_go_to_the_even_mantissa(value: float, code: int) -> None:
    one = np.array([[value, -value]], dtype=np.float32)
    assert formats.encode_e2m1(one).tolist() == [[code, code | 8]]


@settings(deadline=None)
@given(floats(2.0**127))
def test_bfloat16_is_widened_exactly(values: Floats) -> None:
    stored = formats.narrow(values, "bfloat16")
    exact = (stored.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    assert np.array_equal(formats.widen(stored), exact)
    assert np.array_equal(formats.widen(stored[:, ::2]), exact[:, ::2])


@settings(deadline=None)
@given(arrays.arrays(np.uint8, matrices))
def test_every_byte_of_e4m3_is_decoded(codes: np.ndarray) -> None:
    expected = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(formats.decode_e4m3(codes), expected, equal_nan=True)


@settings(deadline=None)
@given(arrays.arrays(np.int8, matrices.map(even), elements=st.integers(-8, 7)))
def test_int4_rows_survive_packing(values: np.ndarray) -> None:
    packed = formats.pack_int4_rows(values)
    assert packed.shape == (len(values) // 2, values.shape[1])
    assert np.array_equal(formats.unpack_int4_rows(packed), values)


@settings(deadline=None)
@given(arrays.arrays(np.int8, matrices))
def test_every_packed_byte_survives_unpacking(packed: np.ndarray) -> None:
    assert np.array_equal(formats.pack_int4_rows(formats.unpack_int4_rows(packed)), packed)


@settings(deadline=None)
@given(arrays.arrays(np.uint8, matrices.map(even), elements=st.integers(0, 15)))
def test_e2m1_columns_survive_packing(codes: np.ndarray) -> None:
    packed = formats.pack_e2m1_columns(codes)
    assert packed.shape == (len(codes), codes.shape[1] // 2)
    assert np.array_equal(formats.unpack_e2m1_columns(packed), codes)


@settings(deadline=None)
@given(floats(2.0**100))
def test_what_is_bfloat16_already_is_left_as_it_is(values: Floats) -> None:
    rounded = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(formats.round_to(values, "bfloat16"), rounded)
    assert formats.round_to(rounded, "bfloat16") is rounded
