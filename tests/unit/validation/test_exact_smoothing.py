"""SmoothQuant's divisors are found if they reproduce all that is stored, and only then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.validation.numerics import reproduction
from enginekeeper.validation.numerics.exact_smoothing import exact_divisor
from enginekeeper.validation.numerics.formats import Floats, round_to
from enginekeeper.validation.numerics.mapping import LinearPlace, Part
from enginekeeper.validation.numerics.recipes import LinearRecipe, WeightFormat, quantize_rows
from enginekeeper.validation.numerics.smoothing import smooth_by
from tests.factories.single_weights import SingleWeight, StoredIntegers

ROWS, COLUMNS = 48, 24
SMOOTHQUANT = LinearRecipe(WeightFormat.INT8_CHANNEL, "int8_static", prequant=True)
PLACE = LinearPlace(
    "transformer.layers.0.mlp.proj",
    0,
    (Part("model.layers.0.mlp.down_proj", "", ROWS),),
    COLUMNS,
    "row",
    (),
)
HALVES = st.sampled_from(["bfloat16", "float16"])


def export(divisor: Floats, weight: Floats, dtype: str) -> StoredIntegers:
    made = quantize_rows(SMOOTHQUANT, smooth_by(weight, divisor, dtype), 0.0, dtype)
    return StoredIntegers(made.codes, made.scales, round_to(divisor, dtype))


def smoothquant(seed: int, dtype: str = "bfloat16") -> tuple[SingleWeight, Floats, StoredIntegers]:
    """A weight, the reciprocals of its inputs' largest magnitudes, and an honest export."""
    random = np.random.default_rng(seed)
    loudest = round_to(np.exp(random.normal(size=COLUMNS)).astype(np.float32), dtype)
    weight = round_to(random.standard_normal((ROWS, COLUMNS), np.float32), dtype)
    divisor = np.float32(1) / loudest
    return SingleWeight(weight), divisor, export(divisor, weight, dtype)


def found(source: SingleWeight, stored: StoredIntegers, dtype: str = "bfloat16") -> Floats | None:
    return exact_divisor(source, PLACE, SMOOTHQUANT, stored, dtype=dtype, stored_in=dtype)


@pytest.fixture(params=[1 << 18, 2 * COLUMNS], ids=["at once", "in pairs of rows"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "_CHUNK_ELEMENTS", request.param)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), HALVES)
def test_what_is_found_reproduces_all_that_is_stored(seed: int, dtype: str) -> None:
    source, _, stored = smoothquant(seed, dtype)
    divisor = found(source, stored, dtype)
    assert divisor is not None
    assert stored.prequant is not None
    assert np.array_equal(round_to(divisor, dtype), stored.prequant)
    again = export(divisor, source.weight, dtype)
    assert np.array_equal(again.codes, stored.codes)
    assert np.array_equal(again.scales, stored.scales)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("told_at", [0, 7, ROWS - 1])
def test_the_row_that_tells_candidates_apart_may_come_late(told_at: int) -> None:
    weight = np.full((ROWS, COLUMNS), 2.0**-9, np.float32)  # next to nothing, whatever it is by
    weight[:, 0] = 1
    weight[told_at, 1] = round_to(np.array([0.99 / 1.8]), "bfloat16")[0]
    for loudest in (1.796875, 1.8046875, 1.8125):
        divisor = np.ones(COLUMNS, np.float32)
        divisor[1] = np.float32(1) / np.float32(loudest)
        stored = export(divisor, weight, "bfloat16")
        divisor_found = found(SingleWeight(weight), stored)
        assert divisor_found is not None
        again = export(divisor_found, weight, "bfloat16")
        assert np.array_equal(again.codes, stored.codes)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("divisor", [1e-4, 1e4, 0.296875], ids=["low", "high", "as stored"])
def test_bounds_and_what_was_stored_are_candidates(divisor: float) -> None:
    source, divisors, _ = smoothquant(3)
    divisors[4] = divisor
    weight = source.weight.copy()
    weight[:, 4] = round_to(weight[:, 4] * np.float32(divisor), "bfloat16")
    stored = export(divisors, weight, "bfloat16")
    answer = found(SingleWeight(weight), stored)
    assert answer is not None
    assert np.array_equal(export(answer, weight, "bfloat16").codes, stored.codes)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, ROWS - 1),
    st.integers(0, COLUMNS - 1),
    st.sampled_from([-3, -2, 2, 3, 100]),
)
def test_an_integer_that_no_candidate_makes_is_never_reproduced(
    seed: int, row: int, column: int, by: int
) -> None:
    source, _, stored = smoothquant(seed)
    stored.codes[row, column] += by if stored.codes[row, column] < 0 else -by
    assert found(source, stored) is None


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, ROWS - 1), st.sampled_from([-1, 1]))
def test_a_scale_that_is_off_by_its_last_bit_is_never_reproduced(
    seed: int, row: int, up: int
) -> None:
    source, _, stored = smoothquant(seed)
    stored.scales[row] = np.nextafter(stored.scales[row], np.float32(up * np.inf))
    assert found(source, stored) is None


def test_ranks_whose_scales_differ_and_a_missing_vector_are_left_to_others() -> None:
    source, _, stored = smoothquant(1)
    assert found(source, replace(stored, scales_agree=False)) is None
    assert found(source, replace(stored, prequant=None)) is None
