"""The scales that are stored beside an honest export's, and what they say of the weights."""

from __future__ import annotations

import numpy as np

from enginekeeper.validation.numerics.formats import BFLOAT16_ROUNDING, Floats, round_to
from enginekeeper.validation.numerics.recipes import WeightFormat
from enginekeeper.validation.weight_codes import SAME_SCALE
from enginekeeper.validation.weight_statistics import PartStatistics

BEYOND = 1e-4
"""Share of codes more than a step from their weight, above which the weight was another one: it was
tuned or merged, or errors were fed back. Rounding to either side, at random too, gives none."""

_BOTH_WAYS = 0.05
"""Share of the scales that are larger than the recipe's, and share that are smaller, above which no
choice of scales explains them: other weights have other largest ones."""


def scale_ratio(stats: PartStatistics) -> Floats:
    """Returns stored over honest scales, 1 where nothing depends on them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = stats.scales / stats.honest_scales
    ratio[stats.exact_rows] = 1
    energy = stats.blocks.energy.reshape(len(ratio), ratio.shape[1], -1).sum(axis=2)
    ratio[energy == 0] = 1
    return ratio


def rounded_to_half(stats: PartStatistics, deviation: Floats) -> bool:
    """Says whether the scales are the honest ones, rounded to bfloat16 or float16."""
    known = 1 if stats.divisor is None else 2  # a smoothed weight's own is known to a unit
    if deviation.max() > known * BFLOAT16_ROUNDING:
        return False
    return any(
        np.array_equal(round_to(stats.scales, dtype), stats.scales)
        for dtype in ("bfloat16", "float16")
    )


def of_other_weights(stats: PartStatistics, ratio: Floats) -> bool:
    """Says whether codes and scales are those of other weights: some are larger, some smaller.

    Who rounds otherwise chooses smaller scales than the largest weights give (clipping), or larger
    ones (a margin), and takes them from the source: of whole rows, feedback of errors does, too; of
    groups it may take them from what was fed back. Rounded scales are off both ways, but numbers of
    half precision; a smoothed part's own are known to a unit.
    """
    whole_rows = stats.kind in (WeightFormat.INT8_CHANNEL, WeightFormat.FP8_CHANNEL)
    if stats.divisor is not None or not whole_rows:
        return False
    if rounded_to_half(stats, np.zeros(1, np.float32)):
        return False
    sides = (ratio > 1 + SAME_SCALE, ratio < 1 - SAME_SCALE)
    both_ways = min(float(side.mean()) for side in sides) > _BOTH_WAYS
    return both_ways and stats.followed().beyond > BEYOND
