"""In which dtype an exporter computed."""

from __future__ import annotations

import numpy as np
import pytest

from enginekeeper.validation.numerics.computed_in import computed_in
from enginekeeper.validation.numerics.formats import round_to
from enginekeeper.validation.numerics.mapping import LinearPlace, Part
from enginekeeper.validation.numerics.recipes import LinearRecipe, WeightFormat, quantize_rows
from tests.factories.single_weights import SingleWeight, StoredIntegers

INT8, ROWS = LinearRecipe(WeightFormat.INT8_CHANNEL), 1024
PLACE = LinearPlace("transformer.layers.0.mlp.proj", 0, (Part("p", "", ROWS),), 32, "row", ())


@pytest.mark.parametrize("made_in", ["float16", "float32"])
@pytest.mark.parametrize("tiny", [3, 100])
def test_one_tiny_row_may_be_all_that_tells_dtypes_apart(made_in: str, tiny: int) -> None:
    weight = np.random.default_rng(0).standard_normal((ROWS, 32), np.float32)
    weight = round_to(weight, "bfloat16")  # whose numbers of this size float16 has, too
    weight[tiny] *= 1e-6
    made = quantize_rows(INT8, round_to(weight, made_in), 0.0, made_in)
    stored = StoredIntegers(made.codes, made.scales)
    found = computed_in(SingleWeight(weight), PLACE, INT8, stored, "float16", folded=None)
    assert found == made_in
