"""Which of two neighbouring integers a recipe stores, where the checkpoint cannot tell any more.

AWQ divides a weight by a float32 vector, rounds the result to the checkpoint's dtype and quantizes
that; the checkpoint keeps the vector rounded so, too. What was quantized is thus known to one unit
in the last place only (half from the vector, half from the rounding): an integer whose boundary
lies inside that unit, and a group's scale whose maximum does, have two values that an honest export
may hold. There the stored one is taken. Everywhere else the recipe decides, so that no error larger
than one unit of a weight is taken over, and no scale that the recipe cannot make.

Of the exports in `tests/assets/modelopt-0.47-tiny` 0.2 to 0.4 % of the integers differ from the
recomputed ones, and all of them lie inside the unit.
"""

from __future__ import annotations

import numpy as np

from enginekeeper.validation.numerics.formats import INT4_MAX, Floats, round_to, unit
from enginekeeper.validation.numerics.recipes import Quantized

_FLOAT32 = np.float32(2.0**-22)
"""Relative; what a float32 division and the multiplication that undoes it may leave."""


def settled(own: Quantized, weight: Floats, stored: Quantized, dtype: str) -> Quantized:
    """Returns the recipe's INT4 rows with the stored choice wherever the recipe leaves one open.

    `weight` is what the recipe quantized; all three hold the same rows, `own` and `stored` with a
    scale for each group of columns.
    """
    scales = _settled_scales(own.scales, stored.scales, dtype)
    groups = (len(weight), scales.shape[1], -1)
    step = scales[:, :, None]
    grouped = weight.reshape(groups)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        codes = stored.codes.reshape(groups)
    open_by = np.abs(grouped) * unit(dtype)
    lowest, highest = (np.rint((grouped + way * open_by) / step) for way in (-1, 1))
    # A code that is not finite is in no interval.
    chosen = np.where((codes >= lowest) & (codes <= highest), codes, np.rint(grouped / step))
    np.clip(chosen, -INT4_MAX - 1, INT4_MAX, out=chosen)
    return Quantized(chosen.reshape(weight.shape), scales)


def _settled_scales(own: Floats, stored: Floats, dtype: str) -> Floats:
    """Takes a stored scale that is another maximum's of the dtype, at most two units from our own.

    Two, because q, k and v are smoothed twice; a scale off by a factor is on no such maximum.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        maximum = stored * np.float32(INT4_MAX)
        near = np.abs(stored - own) <= own * 2 * unit(dtype)
        made = np.abs(round_to(maximum, dtype) - maximum) <= maximum * _FLOAT32
    return np.where(near & made, stored, own)
