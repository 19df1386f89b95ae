"""Judgements of single parts: what another honest exporter may do, and what none does."""

from __future__ import annotations

import numpy as np
import pytest

from enginekeeper.validation import weight_judgement
from enginekeeper.validation.numerics import reproduction as reproductions
from enginekeeper.validation.numerics.formats import Floats, round_to
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import recipe_for, round_codes
from enginekeeper.validation.numerics.reproduction import Reproduction
from enginekeeper.validation.weight_judgement import Judgement, judge
from enginekeeper.validation.weight_statistics import Comparison, PartStatistics, measure
from tests.factories.single_weights import SingleWeight, StoredIntegers

ROWS, COLUMNS = 64, 256
INT8 = recipe_for("W8A16")


@pytest.fixture
def weight() -> Floats:
    """Small weights beside a few large ones, as smoothing leaves them; the first row on a grid."""
    random = np.random.default_rng(3)
    values = random.standard_normal((ROWS, COLUMNS)) * 4
    values[:, 0] = 127
    values[0] = random.integers(60, 127, COLUMNS) * 40  # by far the largest, and no rounding error
    values[0, 0] = 127 * 40
    values[1, 1] = 2.5  # between two integers
    return (values * 1.003e-3).astype(np.float32)


def own(weight: Floats) -> StoredIntegers:
    """What the recipe makes of a weight."""
    scales = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    return StoredIntegers(np.rint(weight / scales), scales)


def measured(
    weight: Floats,
    stored: StoredIntegers,
    divisor: Floats | None = None,
    dtype: str = "float32",
) -> PartStatistics:
    part = Part("", "model.layers.0.mlp.up_proj", len(weight))
    reproduction = Reproduction(SingleWeight(weight), INT8, dtype, 0.0, (divisor,))
    return measure(stored, reproduction, 0, COLUMNS, part)


def judged(
    weight: Floats,
    stored: StoredIntegers,
    divisor: Floats | None = None,
    dtype: str = "float32",
) -> Judgement:
    return judge(measured(weight, stored, divisor, dtype))


def test_scales_rounded_to_half_precision_are_honest_beside_a_tie_decided_otherwise(
    weight: Floats,
) -> None:
    made = own(weight)
    made.codes[1, 1] = 3 if made.codes[1, 1] == 2 else 2
    assert judged(weight, StoredIntegers(made.codes, round_to(made.scales, "bfloat16"))).honest


def test_rounded_scales_hide_no_wrong_block(weight: Floats) -> None:
    made = own(weight)
    made.codes[5, 64:70] += 3
    blocks = judged(weight, StoredIntegers(made.codes, round_to(made.scales, "bfloat16"))).blocks
    assert blocks is not None
    assert np.argwhere(blocks).tolist() == [[5, 1]]


def test_codes_of_the_whole_range_are_honest_where_few_differ_from_the_recipes(
    weight: Floats,
) -> None:
    made = own(weight[1:])
    scales = made.scales * np.float32(127 / 127.5)
    codes = round_codes(INT8.format, weight[1:] / scales)
    assert 0 < (codes != made.codes).mean() < 0.05
    assert judged(weight[1:], StoredIntegers(codes, scales)).honest


def test_the_same_scales_under_the_recipes_codes_are_wrong(weight: Floats) -> None:
    made = own(weight[1:])
    made.codes[0, 1] = 3 if made.codes[0, 1] == 2 else 2
    wrong = judged(
        weight[1:], StoredIntegers(made.codes, made.scales * np.float32(127 / 127.5))
    ).scales
    assert wrong is not None
    assert wrong.all()


def test_of_a_smoothed_weight_a_code_is_open_by_a_unit_of_the_vector(weight: Floats) -> None:
    ones = np.ones(COLUMNS, np.float32)
    weight = round_to(weight[1:], "bfloat16")
    made = own(weight)
    nearest = np.abs(weight / made.scales)
    near = np.argwhere((np.abs(nearest % 1 - 0.5) < nearest / 256) & (nearest > 2))
    assert len(near) > 5
    for row, column in near:
        wanted = weight[row, column] / made.scales[row, 0]
        made.codes[row, column] = np.floor(wanted) + np.ceil(wanted) - made.codes[row, column]
    assert judged(weight, made, ones, "bfloat16").honest
    assert not judged(weight, made, ones, "float16").honest  # whose unit is an eighth of that
    assert not judged(weight, made).honest  # of an exact weight none of it is open


@pytest.fixture
def loud(weight: Floats) -> Floats:
    """Weights of which an outlier leaves nearly all codes at zero; the others are 1, mostly."""
    values = weight[2:].copy()
    values[:, 3] = 2.12
    return values


def diffused(values: Floats) -> Floats:
    """Carries half of each rounding error to the next column."""
    codes = np.empty_like(values)
    carried: Floats = np.zeros(len(values), np.float32)
    for column in range(values.shape[1]):
        wanted = values[:, column] + carried / 2
        codes[:, column] = np.clip(np.rint(wanted), -128, 127)
        carried = np.asarray(wanted - codes[:, column], np.float32)
    return codes


def test_another_rule_of_rounding_is_honest_where_an_outlier_leaves_few_codes(
    loud: Floats,
) -> None:
    scales = own(loud).scales
    stored = StoredIntegers(diffused(loud / scales), scales)
    assert measured(loud, stored).same_codes > 0.95
    assert judged(loud, stored).other_rounding


@pytest.mark.parametrize("damage", ["cut-off", "columns-of-zeros", "half-the-rows", "far"])
def test_what_no_rule_of_rounding_does_is_damage_beside_an_outlier(
    loud: Floats, damage: str
) -> None:
    made = own(loud)
    codes, fair = made.codes.copy(), diffused(loud / made.scales)
    match damage:
        case "cut-off":
            codes = np.trunc(loud / made.scales)
        case "columns-of-zeros":
            codes[:, 32:64] = 0
        case "half-the-rows":
            codes[:30] = fair[:30]
        case _:
            codes = fair
            codes[7, 9] += 3
    stored = StoredIntegers(codes, made.scales)
    assert measured(loud, stored).same_codes > 0.95
    assert judged(loud, stored).blocks is not None


def test_fair_codes_lean_to_no_side_though_most_are_zero(loud: Floats) -> None:
    scales = own(loud).scales
    random = np.random.default_rng(1).random(loud.shape, np.float32)
    for codes in (diffused(loud / scales), np.floor(loud / scales + random)):
        clipped = StoredIntegers(np.clip(codes, -128, 127), scales)
        assert not measured(loud, clipped).leaning().aside
    truncated = StoredIntegers(np.trunc(loud / scales), scales)
    assert measured(loud, truncated).leaning().aside


def test_of_a_smoothed_weight_one_code_a_step_away_is_damage(weight: Floats) -> None:
    made = own(weight)
    made.codes[7, 9] += 1 if made.codes[7, 9] > weight[7, 9] / made.scales[7, 0] else -1
    blocks = judged(weight, made, np.ones(COLUMNS, np.float32)).blocks
    assert blocks is not None
    assert np.argwhere(blocks).tolist() == [[7, 0]]


def test_what_is_said_of_a_part_does_not_depend_on_where_its_chunks_end(
    weight: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = own(weight)
    made.codes[-4:] = 0
    found = []
    for rows in (ROWS, 16, 6):
        monkeypatch.setattr(reproductions, "_CHUNK_ELEMENTS", rows * COLUMNS)
        stats = measured(weight, made)
        found.append((stats.gain, stats.error_ratio, stats.same_codes, stats.blocks.energy.sum()))
    assert found[1:] == [pytest.approx(found[0], rel=1e-5)] * 2


def test_a_part_is_read_again_once_however_often_it_is_asked(weight: Floats) -> None:
    stats = measured(weight, own(weight))
    assert stats.followed() is stats.followed()
    assert stats.leaning() is stats.leaning()


def requantized(weight: Floats, times: float) -> StoredIntegers:
    """Codes that are the nearest under scales somebody else chose."""
    scales = own(weight).scales * np.float32(times)
    return StoredIntegers(round_codes(INT8.format, weight / scales), scales)


@pytest.mark.parametrize("times", [0.98, 1.1, 1.4])
def test_codes_that_follow_scales_somebody_chose_are_another_rounding(
    weight: Floats, times: float
) -> None:
    assert judged(weight[1:], requantized(weight[1:], times)).other_rounding


def test_scales_that_were_chosen_badly_are_doubt_and_then_wrong(weight: Floats) -> None:
    doubt, wrong = (judged(weight[1:], requantized(weight[1:], times)) for times in (2.0, 6.0))
    assert (doubt.honest, doubt.doubtful) == (False, True)
    assert (wrong.honest, wrong.doubtful) == (False, False)


def test_codes_that_do_not_follow_are_damage_under_chosen_scales(weight: Floats) -> None:
    made = requantized(weight[1:], 1.1)
    made.codes[7, 100:106] += 20
    judgement = judged(weight[1:], made)
    assert (judgement.honest, judgement.doubtful) == (False, False)


def feedback_errors(beyond: int, worse: int) -> Comparison:
    """Blocks that are honest, some worse than another rounding makes them, some far worse."""
    error = np.ones((100, 10))
    error.reshape(-1)[:worse] = 25.0
    error.reshape(-1)[:beyond] = 400.0
    ones, none = np.ones_like(error), np.zeros_like(error)
    return Comparison(error, ones, ones, none, none, none)


@pytest.mark.parametrize(("beyond", "worse", "stands_out"), [(1, 100, False), (1, 1, True)])
def test_a_block_far_worse_stands_out_unless_it_ends_a_long_tail(
    beyond: int, worse: int, *, stands_out: bool
) -> None:
    assert weight_judgement._stands_out(feedback_errors(beyond, worse)) is stands_out


def test_weights_that_were_clipped_are_not_honest(weight: Floats) -> None:
    assert not judged(weight[1:], requantized(weight[1:], 0.25)).honest
