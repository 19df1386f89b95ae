"""What the weights were divided by, where the checkpoint only keeps it rounded.

ModelOpt smooths a weight with a float32 vector s and exports bfloat16(s): the quantized integers
belong to a division that can no longer be done exactly. Inside the half unit that the rounding
left open, the value that reproduces the stored integers best is the one that was used:

- SmoothQuant (INT8) with alpha 1 divides by the reciprocal of a bfloat16 activation maximum: the
  few candidates are tried, and the right one reproduces every integer (measured on 150 of 150
  linears of SmolLM2-135M);
- AWQ (INT4) searches s freely and, for q, k and v, smooths twice: nine points of the interval are
  tried; integers that differ fall from 0.5 % to 0.1 % (0.4 % for q, k, v).

The vector cannot leave its rounding interval, so that no error above half a unit in the last place
(0.4 %) can hide here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ml_dtypes import bfloat16

from enginekeeper.validation.numerics.formats import Floats, round_to
from enginekeeper.validation.numerics.recipes import WeightFormat

_INTERVAL_POINTS = 9
"""Points tried per column where the divisor is a free float32."""

_SAMPLED_ROWS = 256
"""Rows looked at to choose among those points; all rows where candidates are exact."""


def recover_divisor(weight: Floats, stored: Floats, scales: Floats, prequant: Floats) -> Floats:
    """Returns, per column, the divisor inside `prequant`'s rounding interval that fits best.

    `weight` is the source in the checkpoint's dtype; `stored` are the dequantized rows before
    the pre-quant vector, `scales` their scales, one column per group or a single one.
    """
    exact = scales.shape[1] == 1
    if not exact:
        step = max(len(weight) // _SAMPLED_ROWS, 1)
        weight, stored, scales = weight[::step], stored[::step], scales[::step]
    group = weight.shape[1] // scales.shape[1]
    best = prequant.copy()
    most = np.full(len(prequant), -1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        codes = np.rint(_per_group(stored, scales, group))
        for divisor in _reciprocals(prequant) if exact else _points(prequant):
            candidate = round_to(weight * (np.float32(1) / divisor)[None, :], "bfloat16")
            same = (np.rint(_per_group(candidate, scales, group)) == codes).sum(axis=0)
            # A candidate that would not be exported as this prequant was not the one used.
            same[round_to(divisor, "bfloat16") != prequant] = -1
            better = same > most
            best[better], most[better] = divisor[better], same[better]
    return best


def smooth_by(weight: Floats, divisor: Floats | None, dtype: str) -> Floats:
    """Divides columns as ModelOpt does: times the float32 reciprocal, rounded to the dtype."""
    if divisor is None:
        return weight
    return round_to(weight * (np.float32(1) / divisor)[None, :], dtype)


def _per_group(values: Floats, scales: Floats, group: int) -> Floats:
    grouped = values.reshape(len(values), -1, group) / scales[:, :, None]
    return grouped.reshape(values.shape)


def _reciprocals(prequant: Floats) -> Iterator[Floats]:
    """Yields 1/a for the bfloat16 numbers a around 1/prequant, the nearest first."""
    nearest = (np.float32(1) / prequant).astype(bfloat16).view(np.uint16)
    for offset in (0, 1, -1, 2, -2):
        neighbour = (nearest + np.uint16(offset % 65536)).view(bfloat16).astype(np.float32)
        yield np.float32(1) / neighbour


def _points(prequant: Floats) -> Iterator[Floats]:
    """Yields points of the interval that rounds to prequant, the middle first."""
    unit = np.spacing(prequant.astype(bfloat16)).astype(np.float32)
    middle = _INTERVAL_POINTS // 2
    for index in sorted(range(_INTERVAL_POINTS), key=lambda i: abs(i - middle)):
        yield prequant + unit * np.float32((index - middle) / _INTERVAL_POINTS)


def can_recover(kind: WeightFormat, dtype: str) -> bool:
    """Says whether the divisor can be recovered: integer weights, smoothed in bfloat16."""
    return dtype == "bfloat16" and kind in (WeightFormat.INT8_CHANNEL, WeightFormat.INT4_GROUP)
