"""Codes that follow scales somebody chose, and damage that only looks like that."""

from __future__ import annotations

import numpy as np
import pytest

from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import (
    LinearRecipe,
    code_range,
    recipe_for,
    round_codes,
)
from enginekeeper.validation.numerics.reproduction import Reproduction
from enginekeeper.validation.weight_judgement import Judgement, judge
from enginekeeper.validation.weight_statistics import measure
from tests.factories.single_weights import SingleWeight, StoredIntegers

ROWS, COLUMNS, GROUP = 64, 256, 32
INT4, INT8 = recipe_for("W4A16_AWQ", GROUP), recipe_for("W8A16")


@pytest.fixture
def weight() -> Floats:
    return np.random.default_rng(4).standard_normal((ROWS, COLUMNS)).astype(np.float32)


def honest_scales(recipe: LinearRecipe, weight: Floats) -> Floats:
    groups = weight.reshape(len(weight), -1, recipe.group_size or COLUMNS)
    top = np.float32(code_range(recipe.format)[1])
    return np.asarray(np.abs(groups).max(axis=2) / top, np.float32)


def rounded(recipe: LinearRecipe, weight: Floats, scales: Floats) -> StoredIntegers:
    wide = np.repeat(scales, COLUMNS // scales.shape[1], axis=1)
    return StoredIntegers(round_codes(recipe.format, weight / wide), scales)


def judged(recipe: LinearRecipe, weight: Floats, stored: StoredIntegers) -> Judgement:
    part = Part("", "model.layers.0.mlp.up_proj", len(weight))
    reproduction = Reproduction(SingleWeight(weight), recipe, "float32", 0.0, (None,))
    return judge(measure(stored, reproduction, 0, COLUMNS, part))


@pytest.mark.parametrize("recipe", [INT4, INT8], ids=["int4", "int8"])
@pytest.mark.parametrize("times", [0.97, 1.05, 1.3])
def test_a_margin_is_honest(recipe: LinearRecipe, times: float, weight: Floats) -> None:
    scales = honest_scales(recipe, weight) * np.float32(times)
    assert judged(recipe, weight, rounded(recipe, weight, scales)).honest


@pytest.mark.parametrize(("recipe", "most"), [(INT4, 5), (INT8, 118)], ids=["int4", "int8"])
def test_codes_that_were_cut_to_a_smaller_range_are_damage(
    recipe: LinearRecipe, most: int, weight: Floats
) -> None:
    made = rounded(recipe, weight, honest_scales(recipe, weight))
    np.clip(made.codes, -most, most, out=made.codes)
    assert not judged(recipe, weight, made).honest


def test_rows_of_zeros_are_damage(weight: Floats) -> None:
    made = rounded(INT4, weight, honest_scales(INT4, weight))
    made.codes[-8:] = 0
    assert not judged(INT4, weight, made).honest


def test_a_row_that_is_saturated_under_a_scale_of_its_own_is_not_honest(weight: Floats) -> None:
    scales = honest_scales(INT4, weight)
    scales[5] *= np.float32(0.25)
    assert not judged(INT4, weight, rounded(INT4, weight, scales)).honest


def test_a_row_with_a_scale_that_leaves_three_codes_is_not_honest(weight: Floats) -> None:
    scales = honest_scales(INT4, weight)
    scales[5] *= np.float32(7.9)
    assert not judged(INT4, weight, rounded(INT4, weight, scales)).honest


@pytest.mark.parametrize("run", [2, COLUMNS // GROUP], ids=["pairs", "a row"])
def test_groups_that_share_their_scales_are_no_groups(run: int, weight: Floats) -> None:
    shared = honest_scales(INT4, weight).reshape(ROWS, -1, run).max(axis=2)
    scales = np.repeat(shared, run, axis=1)
    judgement = judged(INT4, weight, rounded(INT4, weight, scales))
    assert judgement.scales is not None
    assert not judgement.doubtful


def test_powers_of_two_are_honest_though_many_groups_have_the_same(weight: Floats) -> None:
    even = weight / np.abs(weight).reshape(ROWS, -1, GROUP).max(axis=2).repeat(GROUP, axis=1)
    scales = np.exp2(np.rint(np.log2(honest_scales(INT4, even))))
    assert (scales == scales[0, 0]).all()
    assert judged(INT4, even, rounded(INT4, even, np.asarray(scales, np.float32))).honest


def test_a_quiet_row_under_a_floor_of_scales_is_honest(weight: Floats) -> None:
    weight[5] *= np.float32(1e-6)
    scales = honest_scales(INT4, weight)
    scales[5] *= np.float32(6)
    assert judged(INT4, weight, rounded(INT4, weight, scales)).honest
