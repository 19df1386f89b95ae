"""In which dtype an exporter rounded weights, where it need not be the checkpoint's.

ModelOpt quantizes a model in the dtype that it was loaded in, mostly the source's own; only what is
not quantized is converted to the checkpoint's (`postprocess_tensors`, ModelOpt 0.47). A bfloat16
model exported in float16 has smoothed weights of 8 bits, and tiny ones that float16 has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from enginekeeper.validation.numerics.exact_smoothing import exact_divisor
from enginekeeper.validation.numerics.formats import dtype_name
from enginekeeper.validation.numerics.mapping import LinearPlace, Part
from enginekeeper.validation.numerics.recipes import LinearRecipe, WeightFormat
from enginekeeper.validation.numerics.reproduction import (
    Reproduction,
    StoredParts,
    WeightRows,
    reproduce,
    row_chunks,
    sampled_rows,
)
from enginekeeper.validation.numerics.smoothing import Folding

_Counts = tuple[int, int]
_Rows = Callable[[Part], Iterator[tuple[int, int]]]


def computed_in(
    source: WeightRows,
    place: LinearPlace,
    recipe: LinearRecipe,
    stored: StoredParts,
    dtype: str,
    *,
    folded: Folding | None,
) -> str:
    """Returns the checkpoint's dtype, or the source's if that makes more codes, or more scales.

    Where a norm took something over, the checkpoint's: the formats that have that know no other.
    """
    module = place.parts[0].module
    other = dtype_name(source.stored_rows(f"{module}.weight", 0, 1).dtype)
    if folded is not None or other in (None, dtype) or recipe.format is WeightFormat.PLAIN:
        return dtype
    smoothquant = recipe.prequant and recipe.format is WeightFormat.INT8_CHANNEL
    for one in (dtype, str(other)) if smoothquant else ():
        found = exact_divisor(source, place, recipe, stored, dtype=one, stored_in=dtype)
        if found is not None:
            return one
    own, theirs = (
        reproduce(source, place, recipe, stored, dtype=one, stored_in=dtype)
        for one in (dtype, str(other))
    )
    for rows in (sampled_rows, partial(_all_rows, columns=place.columns)):
        ours, others = (_same(one, place, stored, rows) for one in (own, theirs))
        if ours != others:  # a few tiny rows may be all that tells them apart
            return dtype if ours > others else str(other)
    return dtype


def _all_rows(part: Part, columns: int) -> Iterator[tuple[int, int]]:
    return row_chunks(part.rows, columns)


def _same(again: Reproduction, place: LinearPlace, stored: StoredParts, rows: _Rows) -> _Counts:
    """Returns how many codes of some rows are the reproduction's, and how many scales."""
    codes = scales = 0
    for index, part in enumerate(place.parts):
        for start, stop in rows(part):
            made = again.quantize(again.weight(part, index, start, stop))
            there = stored.part_quantized(part, start, stop)
            codes += int(np.count_nonzero(made.codes == there.codes))
            scales += int(np.count_nonzero(made.scales == there.scales))
    return codes, scales
