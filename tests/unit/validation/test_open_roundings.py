"""What a smoothed weight leaves open: the stored choice is taken within a unit, and not beyond."""

from __future__ import annotations

import numpy as np
import pytest

from enginekeeper.validation.numerics.open_roundings import settled
from enginekeeper.validation.numerics.recipes import Quantized


@pytest.mark.parametrize(("dtype", "code"), [("bfloat16", 2), ("float16", 3)])
def test_a_stored_code_is_taken_if_a_unit_of_the_dtype_leaves_it_open(
    dtype: str, code: int
) -> None:
    weight = np.array([[7, 2.505]], np.float32)  # a hundred and twenty-eighth of it is 0.02
    scales = np.ones((1, 1), np.float32)
    own = Quantized(np.rint(weight), scales)
    stored = Quantized(np.array([[7, 2]], np.float32), scales)
    assert settled(own, weight, stored, dtype).codes.tolist() == [[7, code]]


@pytest.mark.parametrize(("dtype", "maximum"), [("bfloat16", 7.03125), ("float16", 7)])
def test_a_stored_scale_is_taken_if_it_is_two_units_off_at_most(dtype: str, maximum: float) -> None:
    weight = np.array([[7, 2]], np.float32)
    own = Quantized(weight, np.ones((1, 1), np.float32))
    stored = Quantized(weight, np.full((1, 1), 7.03125 / 7, np.float32))
    made = settled(own, weight, stored, dtype)
    assert made.scales.tolist() == [[np.float32(maximum / 7)]]
