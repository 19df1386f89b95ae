"""A part that gets a certificate passes the long way, and healthy AWQ parts get one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.validation.numerics.formats import round_to
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import LinearRecipe, WeightFormat
from enginekeeper.validation.numerics.reproduction import Reproduction
from enginekeeper.validation.weight_certificate import UNRECOVERED, Certificate, certify
from enginekeeper.validation.weight_judgement import TIGHT, judge
from enginekeeper.validation.weight_statistics import PartStatistics, measure
from tests.factories.single_weights import SingleWeight, StoredIntegers

ROWS, COLUMNS, GROUP = 96, 128, 32
AWQ = LinearRecipe(WeightFormat.INT4_GROUP, prequant=True, group_size=GROUP)
PART = Part("model.layers.0.mlp.up_proj", "", ROWS)

NEXT_TO_NOTHING = 2.0**-10 / 100
"""A hundredth of what the limits are lowered by."""


def awq(seed: int) -> tuple[Reproduction, StoredIntegers]:
    """A part as AWQ leaves it, and a reproduction whose vector is off by up to half a unit."""
    random = np.random.default_rng(seed)
    weight = round_to(random.standard_normal((ROWS, COLUMNS), np.float32), "bfloat16")
    divisor = np.exp(random.normal(size=COLUMNS) / 2).astype(np.float32)
    again = divisor * (1 + random.uniform(-1, 1, COLUMNS) * 2.0**-10).astype(np.float32)
    true = Reproduction(SingleWeight(weight), AWQ, "bfloat16", 0.0, (divisor,))
    made = true.quantize(true.weight(PART, 0, 0, ROWS))
    return replace(true, divisors=(again,)), StoredIntegers(made.codes, made.scales)


def both(
    reproduction: Reproduction, stored: StoredIntegers
) -> tuple[Certificate | None, PartStatistics]:
    where: tuple[Any, ...] = (stored, reproduction, 0, COLUMNS, PART)
    return certify(*where), measure(*where)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_healthy_part_gets_a_certificate_with_the_sums_of_the_long_way(seed: int) -> None:
    certificate, stats = both(*awq(seed))
    assert certificate is not None
    assert judge(stats).honest
    assert certificate.same_codes == stats.same_codes
    assert certificate.gain == pytest.approx(stats.gain, rel=0, abs=TIGHT.gain * NEXT_TO_NOTHING)
    assert certificate.error_ratio == pytest.approx(
        stats.error_ratio, rel=0, abs=TIGHT.error * NEXT_TO_NOTHING
    )


def test_a_part_without_any_difference_is_exact() -> None:
    reproduction, _ = awq(1)
    made = reproduction.quantize(reproduction.weight(PART, 0, 0, ROWS))
    certificate, stats = both(reproduction, StoredIntegers(made.codes, made.scales))
    assert certificate is not None
    assert certificate.exact
    assert stats.exact


Damage = Callable[[np.random.Generator, StoredIntegers, float], None]


def some_codes(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Moves a share of the integers to a neighbour."""
    chosen = random.random(stored.codes.shape) < dose / 20
    stored.codes[chosen] += random.choice([-1, 1], int(chosen.sum()))
    np.clip(stored.codes, -8, 7, out=stored.codes)


def one_code(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Moves one integer, at a dose of 1 to any other."""
    row, column = random.integers(ROWS), random.integers(COLUMNS)
    moved = stored.codes[row, column] + np.rint(random.uniform(-15, 15) * dose)
    stored.codes[row, column] = np.clip(moved, -8, 7)


def all_scales(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Moves all scales by the same, up to 1 %."""
    stored.scales[:] *= np.float32(1 + random.uniform(-0.01, 0.01) * dose)


def some_scales(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Moves some scales by up to 5 %."""
    chosen = random.random(stored.scales.shape) < dose
    moved = 1 + random.uniform(-0.05, 0.05) * dose
    stored.scales[chosen] *= np.float32(moved)


def one_group_of_columns(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Moves the scales of a group in all rows by up to 3 %."""
    group = random.integers(COLUMNS // GROUP)
    stored.scales[:, group] *= np.float32(1 + random.uniform(-0.03, 0.03) * dose)


def one_column(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Makes the integers of a column greater or smaller, at a dose of 1 by half."""
    column = random.integers(COLUMNS)
    stored.codes[:, column] = np.rint(
        stored.codes[:, column] * (1 + random.uniform(-0.5, 0) * dose)
    )


def one_row(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Sets a part of a row to zero."""
    row = random.integers(ROWS)
    stored.codes[row, : int(COLUMNS * dose)] = 0


def no_bits(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Stores the scales in half precision."""
    del random, dose
    stored.scales[:] = round_to(stored.scales, "bfloat16")


def lower_codes(random: np.random.Generator, stored: StoredIntegers, dose: float) -> None:
    """Rounds a share of the integers towards zero."""
    chosen = random.random(stored.codes.shape) < dose / 10
    stored.codes[chosen] -= np.sign(stored.codes[chosen])


DAMAGES: tuple[Damage, ...] = (
    some_codes,
    one_code,
    all_scales,
    some_scales,
    one_group_of_columns,
    one_column,
    one_row,
    no_bits,
    lower_codes,
)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=2),
    st.floats(0, 1),
)
def test_what_gets_a_certificate_passes_the_long_way(
    seed: int, damages: list[Damage], dose: float
) -> None:
    reproduction, stored = awq(seed)
    for damage in damages:
        damage(np.random.default_rng(seed), stored, dose)
    certificate, stats = both(reproduction, stored)
    assert certificate is None or judge(stats).honest


def as_stored(reproduction: Reproduction) -> Reproduction:
    """The same with the vector as a checkpoint keeps it."""
    (divisor,) = reproduction.divisors
    assert divisor is not None
    return replace(reproduction, divisors=(round_to(divisor, "bfloat16"),))


def short(stored: StoredIntegers, reproduction: Reproduction) -> Certificate | None:
    return certify(stored, reproduction, 0, COLUMNS, PART, as_stored=True)


@pytest.mark.parametrize("seed", range(8))
def test_a_healthy_part_mostly_gets_one_by_the_vector_that_is_stored(seed: int) -> None:
    reproduction, stored = awq(seed)
    certificate, (recovered, _) = short(stored, as_stored(reproduction)), both(reproduction, stored)
    assert certificate is not None
    assert recovered is not None
    assert certificate.gain == pytest.approx(recovered.gain, abs=UNRECOVERED.gain)
    assert certificate.error_ratio == pytest.approx(recovered.error_ratio, rel=0.01)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=2),
    st.floats(0, 1),
)
def test_what_gets_one_by_the_stored_vector_passes_the_long_way_by_the_one_that_was_used(
    seed: int, damages: list[Damage], dose: float
) -> None:
    reproduction, stored = awq(seed)
    for damage in damages:
        damage(np.random.default_rng(seed), stored, dose)
    certificate, (_, stats) = short(stored, as_stored(reproduction)), both(reproduction, stored)
    assert certificate is None or judge(stats).honest


@pytest.mark.parametrize("damage", [one_code, all_scales, one_row, one_column])
def test_what_is_plainly_damaged_gets_none(damage: Damage) -> None:
    reproduction, stored = awq(5)
    damage(np.random.default_rng(2), stored, 1.0)
    certificate, stats = both(reproduction, stored)
    assert certificate is None
    assert not judge(stats).honest


def on_a_grid(seed: int) -> tuple[Reproduction, StoredIntegers]:
    """A part of eight groups; the weights of the first two are four times the others'.

    The first row of the first group, and the first column of both, have no rounding error.
    """
    random = np.random.default_rng(seed)
    weight = random.standard_normal((ROWS, COLUMNS))
    weight[:, : 2 * SMALL] *= 4
    weight[:, [0, SMALL]] = 14  # the largest of its group, and so a whole number of steps
    weight[0, :SMALL] = 14
    recipe = replace(AWQ, group_size=SMALL)
    source = SingleWeight(round_to(weight.astype(np.float32), "bfloat16"))
    ones = np.ones(COLUMNS, np.float32)
    true = Reproduction(source, recipe, "bfloat16", 0.0, (ones,))
    made = true.quantize(true.weight(PART, 0, 0, ROWS))
    again = ones + (random.uniform(-1, 1, COLUMNS) * 2.0**-8).astype(np.float32)
    again[[0, SMALL]] = 1
    again[:SMALL] = 1
    return replace(true, divisors=(again,)), StoredIntegers(made.codes, made.scales)


SMALL = 16


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, ROWS)], ids=["a block", "a column"])
def test_scales_within_their_limit_may_spoil_what_has_no_error_of_its_own(rows: slice) -> None:
    reproduction, stored = on_a_grid(1)
    stored.scales[rows, 0] *= np.float32(1.025)
    stored.scales[rows, 1] *= np.float32(0.975)  # so that the gain stays as it is
    certificate, stats = both(reproduction, stored)
    judgement = judge(stats)
    assert judgement.gain is None
    assert judgement.scales is None
    assert not judgement.honest
    assert certificate is None
