"""Our own quantization, against its definition and against what ModelOpt exported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.numerics.formats import (
    E4M3_MAX,
    Floats,
    round_to,
)
from enginekeeper.validation.numerics.mapping import Geometry, Part, layer_linears
from enginekeeper.validation.numerics.recipes import (
    LinearRecipe,
    Quantized,
    UnknownRecipeError,
    WeightFormat,
    code_range,
    quantize_rows,
    recipe_for,
)
from enginekeeper.validation.numerics.reproduction import Reproduction, reproduce
from enginekeeper.validation.numerics.smoothing import (
    SmoothedRows,
    integers,
    recover_divisor,
)
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_statistics import PartStatistics, measure
from tests.factories import checkpoints
from tests.factories.single_weights import SingleWeight, as_stored

QUANTIZED = tuple(kind for kind in WeightFormat if kind is not WeightFormat.PLAIN)
GROUPED = (WeightFormat.INT4_GROUP, WeightFormat.NVFP4)
weights = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.sampled_from([16, 32, 64])),
    elements=st.floats(-4, 4, width=16),
)


def recipe_of(kind: WeightFormat) -> LinearRecipe:
    return LinearRecipe(kind, group_size=16 if kind in GROUPED else None)


def amax(weight: Floats) -> float:
    return float(np.abs(weight).max())


@settings(deadline=None)
@given(weights, st.sampled_from(QUANTIZED))
def test_every_value_is_within_half_a_step(weight: Floats, kind: WeightFormat) -> None:
    quantized = quantize_rows(recipe_of(kind), weight, amax(weight), "bfloat16")
    columns = weight.shape[1] // quantized.scales.shape[1]
    scales = np.repeat(quantized.scales, columns, axis=1)
    # Half of the widest gap: 1 for integers, 2 for FP4 (4 to 6), 32 for FP8 (416 to 448).
    gap = {WeightFormat.NVFP4: 2.0, WeightFormat.FP8_TENSOR: 32.0, WeightFormat.FP8_CHANNEL: 32.0}
    # An FP4 block scale is itself rounded, by up to 1/16: its largest value may saturate.
    slack = 0.4 if kind is WeightFormat.NVFP4 else 1e-4
    limit = scales * (gap.get(kind, 1.0) / 2 + slack)
    assert (np.abs(quantized.values - weight) <= limit).all()


@settings(deadline=None)
@given(weights, st.sampled_from([WeightFormat.INT8_CHANNEL, WeightFormat.FP8_CHANNEL]))
def test_what_is_quantized_stays_as_it_is(weight: Floats, kind: WeightFormat) -> None:
    once = quantize_rows(recipe_of(kind), weight, 0.0, "bfloat16")
    twice = quantize_rows(recipe_of(kind), once.values, 0.0, "bfloat16")
    assert np.allclose(once.values, twice.values, rtol=1e-5, atol=1e-7)


@settings(deadline=None)
@given(weights, st.sampled_from(QUANTIZED), st.sampled_from([0.25, 2.0, 16.0]))
def test_a_power_of_two_passes_through(weight: Floats, kind: WeightFormat, factor: float) -> None:
    plain = quantize_rows(recipe_of(kind), weight, amax(weight), "bfloat16")
    scaled = quantize_rows(
        recipe_of(kind), weight * np.float32(factor), amax(weight) * factor, "bfloat16"
    )
    assert np.allclose(scaled.values, plain.values * factor, rtol=1e-6, atol=1e-7)


@settings(deadline=None)
@given(weights)
def test_a_tensor_scale_covers_its_fused_group(weight: Floats) -> None:
    scales = quantize_rows(
        recipe_of(WeightFormat.FP8_TENSOR), weight, 2 * amax(weight) + 1, "bfloat16"
    ).scales
    assert np.allclose(scales, (2 * amax(weight) + 1) / E4M3_MAX)
    assert (scales == scales[0]).all()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_zeros_stay_zeros(kind: WeightFormat) -> None:
    quantized = quantize_rows(recipe_of(kind), np.zeros((2, 32), np.float32), 0.0, "bfloat16")
    assert not quantized.values.any()
    assert np.isfinite(quantized.scales).all()
    assert (quantized.scales > 0).all()


def test_a_group_that_does_not_divide_the_columns_is_refused() -> None:
    with pytest.raises(UnknownRecipeError, match="does not divide"):
        quantize_rows(recipe_for("W4A16_AWQ", 24), np.zeros((2, 64), np.float32), 0.0, "bfloat16")


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UnknownRecipeError, match="not known"):
        recipe_for("W3A5")


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["bfloat16", "float16"]))
@example(719232631, "float16")  # two reciprocals make the same of all 400 rows
def test_a_smoothing_divisor_is_recovered_from_the_integers(seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    maxima = round_to(np.exp(random.normal(size=32)).astype(np.float32), dtype)
    divisor = np.float32(1) / maxima
    weight = round_to(random.normal(size=(400, 32)).astype(np.float32) * divisor, dtype)
    smoothed = round_to(weight * (np.float32(1) / divisor), dtype)
    quantized = quantize_rows(recipe_of(WeightFormat.INT8_CHANNEL), smoothed, 0.0, dtype)
    rows = [SmoothedRows(weight, quantized.codes, quantized.scales)]
    found = recover_divisor(
        round_to(divisor, dtype), rows, dtype=dtype, stored_in=dtype, exact=True
    )
    made = integers(weight, found, quantized.scales, dtype)
    assert np.array_equal(made, quantized.codes)
    assert np.count_nonzero(found != divisor) <= 1


def test_what_a_sample_leaves_open_is_asked_of_all_rows() -> None:
    weight = np.ones((64, 2), np.float32)
    weight[1:, 0] = np.linspace(0.5, 1, 63)  # the sample's one row says nothing of a column
    weight = round_to(weight, "bfloat16")
    divisor = np.float32(1) / np.array([1.8125, 1.796875], np.float32)
    smoothed = round_to(weight * (np.float32(1) / divisor), "bfloat16")
    made = quantize_rows(recipe_of(WeightFormat.INT8_CHANNEL), smoothed, 0.0, "bfloat16")
    rows = SmoothedRows(weight, made.codes, made.scales)
    some = SmoothedRows(weight[:1], made.codes[:1], made.scales[:1])
    prequant = round_to(divisor, "bfloat16")
    sampled = recover_divisor(prequant, [some], dtype="bfloat16", stored_in="bfloat16", exact=True)
    assert not np.array_equal(sampled, divisor)
    found = recover_divisor(
        prequant, [some], dtype="bfloat16", stored_in="bfloat16", exact=True, everything=[rows]
    )
    assert np.array_equal(found, divisor)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_divisor_at_a_bound_is_recovered_though_it_is_no_reciprocal(dtype: str) -> None:
    divisor = np.array([1e-4, 1e4, 0.5], np.float32)
    prequant, rows = round_to(divisor, dtype), _smoothed(divisor, dtype)
    assert np.array_equal(
        recover_divisor(prequant, rows, dtype=dtype, stored_in=dtype, exact=True), divisor
    )


def test_a_divisor_that_is_what_was_stored_is_recovered() -> None:
    divisor = round_to(np.array([0.3, 0.7, 1.9], np.float32), "bfloat16")
    rows = _smoothed(divisor, "bfloat16")
    found = recover_divisor(divisor, rows, dtype="bfloat16", stored_in="bfloat16", exact=True)
    assert np.array_equal(found, divisor)


def _smoothed(divisor: Floats, dtype: str) -> list[SmoothedRows]:
    weight = np.random.default_rng(5).normal(size=(600, len(divisor))).astype(np.float32)
    weight = round_to(weight * divisor, dtype)
    smoothed = round_to(weight * (np.float32(1) / divisor), dtype)
    made = quantize_rows(recipe_of(WeightFormat.INT8_CHANNEL), smoothed, 0.0, dtype)
    return [SmoothedRows(weight, made.codes, made.scales)]


@pytest.mark.parametrize("kind", [WeightFormat.INT8_CHANNEL, WeightFormat.FP8_CHANNEL])
def test_a_row_below_the_normal_numbers_of_its_dtype_has_their_scale(kind: WeightFormat) -> None:
    row = np.array([[6e-7, -3e-7, 0, 0]], np.float32)
    limit = code_range(kind)[1]
    assert quantize_rows(recipe_of(kind), row, 0.0, "float16").scales == np.float32(2**-14) / limit
    assert quantize_rows(recipe_of(kind), row, 0.0, "bfloat16").scales == row[0, 0] / limit


class _Scaled:
    """Stored parts that hold an honest export times a factor."""

    prequant = None
    scales_agree = True

    def __init__(self, honest: Reproduction, factor: float) -> None:
        self.honest, self.factor = honest, np.float32(factor)

    def part_rows(self, part: Part, start: int, stop: int) -> Floats:
        weight = self.honest.weight(part, 0, start, stop)
        return self.honest.quantize(weight).values * self.factor

    def part_quantized(self, part: Part, start: int, stop: int) -> Quantized:
        honest = self.honest.quantize(self.honest.weight(part, 0, start, stop))
        return Quantized(honest.codes, honest.scales * self.factor)

    def part_as_stored(self, part: Part, start: int, stop: int) -> npt.NDArray[Any]:
        return as_stored(self.honest.recipe.format, self.part_quantized(part, start, stop).codes)

    def part_scales(self, part: Part, start: int, stop: int) -> Floats:
        weight = self.honest.weight(part, 0, start, stop)
        return self.honest.quantize(weight).scales * self.factor


def statistics(weight: Floats, recipe: LinearRecipe, factor: float) -> PartStatistics:
    part = Part("linear", "", len(weight))
    honest = Reproduction(SingleWeight(weight), recipe, "float32", amax(weight), (None,))
    return measure(_Scaled(honest, factor), honest, 0, weight.shape[1], part)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(QUANTIZED),
    st.floats(0.5, 2).filter(lambda factor: abs(factor - 1) > 1e-3),
)
def test_a_factor_is_measured_as_a_gain(seed: int, kind: WeightFormat, factor: float) -> None:
    weight = np.random.default_rng(seed).normal(size=(32, 64)).astype(np.float32)
    stats = statistics(weight, recipe_of(kind), factor)
    assert stats.same_codes == 1.0
    assert stats.gain == pytest.approx(factor - 1, abs=0.05 * abs(factor - 1))
    assert abs(factor - 1) < 0.1 or stats.error_ratio > 1


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(QUANTIZED))
def test_an_honest_part_is_exact(seed: int, kind: WeightFormat) -> None:
    weight = np.random.default_rng(seed).normal(size=(32, 64)).astype(np.float32)
    assert statistics(weight, recipe_of(kind), 1.0).exact


@pytest.mark.parametrize("recipe", [r for r in checkpoints.RECIPES if "awq" not in r])
def test_scales_equal_those_modelopt_exported(recipe: str) -> None:
    source = SourceModel.open(checkpoints.SOURCE)
    checkpoint = Checkpoint.open(checkpoints.EXPORTS / recipe)
    for place in layer_linears(1, Geometry.of(source.config)):
        stored = checkpoint.linear(place)
        how = checkpoint.quantization.recipe(place.name)
        again = reproduce(
            source, place, how, stored, dtype=checkpoint.dtype, stored_in=checkpoint.dtype
        )
        for index, part in enumerate(place.parts):
            ours = again.quantize(again.weight(part, index, 0, part.rows)).scales
            assert np.array_equal(ours, stored.part_scales(part, 0, part.rows))


def test_the_bytes_of_an_fp8_export_follow_from_the_source() -> None:
    source = SourceModel.open(checkpoints.SOURCE)
    checkpoint = Checkpoint.open(checkpoints.EXPORTS / "fp8")
    place = next(iter(layer_linears(0, Geometry.of(source.config))))
    stored, recipe = checkpoint.linear(place), checkpoint.quantization.recipe(place.name)
    honest = reproduce(
        source, place, recipe, stored, dtype=checkpoint.dtype, stored_in=checkpoint.dtype
    )
    rows = (place.parts[0], 0, 0, place.parts[0].rows)
    assert honest.has_bits(*rows, stored)
    assert not replace(honest, shared_amax=honest.shared_amax * 2).has_bits(*rows, stored)


class _Loud:
    """A source whose tensors are constants: gate_proj 1, up_proj 2, q 3, k 4, v 5, others 9."""

    def largest(self, name: str) -> float:
        return amax(self.rows(name))

    def stored_rows(
        self, name: str, start: int, stop: int, columns: npt.NDArray[np.intp] | None = None
    ) -> Floats:
        rows = self.rows(name, start, stop)
        return rows if columns is None else rows[:, columns]

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        loud = {"gate": 1, "up": 2, "q": 3, "k": 4, "v": 5}
        value = loud.get(name.split(".")[-2].removesuffix("_proj"), 9)
        return np.full((2, 16), -value, np.float32)[start:stop]


@pytest.mark.parametrize("kind", [WeightFormat.FP8_TENSOR, WeightFormat.NVFP4])
def test_tensor_scales_are_shared_by_what_is_multiplied_at_once(kind: WeightFormat) -> None:
    geometry = Geometry(1, 16, 16, 1, 1, 16, 16, tied=False)
    nothing = Reproduction(_Loud(), recipe_of(kind), "bfloat16", 0.0, (None,))
    shared = {
        place.name.rpartition(".")[2]: reproduce(
            _Loud(),
            place,
            recipe_of(kind),
            _Scaled(nothing, 1.0),
            dtype="bfloat16",
            stored_in="bfloat16",
        ).shared_amax
        for place in layer_linears(0, geometry)
    }
    assert shared == {"qkv": 5, "dense": 9, "fc": 2, "gate": 2, "proj": 9}
