"""The recipe's own version of one linear: what an honest export of the source would hold.

Learned parameters (the pre-quant vector) come from the checkpoint, everything else from the
source: the audits compare the stored linear with this, and the recipe twin is written from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import (
    Floats,
    bits,
    encode_e4m3,
    model_dtype,
    narrow,
    round_to,
    unit,
    widen,
)
from enginekeeper.validation.numerics.mapping import LinearPlace, Part
from enginekeeper.validation.numerics.recipes import (
    LinearRecipe,
    Quantized,
    WeightFormat,
    quantize_rows,
    scales_of,
)
from enginekeeper.validation.numerics.same_numbers import hold
from enginekeeper.validation.numerics.smoothing import (
    ColumnsOfRows,
    Folding,
    SmoothedRows,
    can_recover,
    recover_divisor,
    recover_folded,
    smooth_by,
)

_CHUNK_ELEMENTS = 1 << 18
"""Numbers held per array at a time: 1 MiB as float32, so that what is done to them one after the
other finds them in the processor's cache."""


_SAMPLED_ROWS = 256
"""Rows looked at to choose AWQ's divisors, enough for 1 of 9 points; SmoothQuant's, first."""

_SAMPLE_RUN = 16
"""Consecutive rows per sample; even, because INT4 packs rows in pairs."""

_LONG_RUN = 64
"""The same where reading a piece costs more than looking at its rows."""


_FEW_OF = 4
"""Columns of which one is asked for at most, mostly, when all rows are."""

_NEGATIVE = 1 << 15
"""The bits of -0 in bfloat16."""


class WeightRows(Protocol):
    """Where source weights come from; `SourceModel` is one."""

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Returns rows of a tensor as float32."""
        ...

    def stored_rows(
        self, name: str, start: int, stop: int, columns: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[Any]:
        """Returns rows of a tensor, or some columns of them, in the format that it has."""
        ...

    def largest(self, name: str) -> float:
        """Returns a tensor's largest magnitude."""
        ...


class StoredParts(Protocol):
    """Where stored weights come from; `AssembledLinear` is one."""

    @property
    def prequant(self) -> Floats | None:
        """The pre-quant vector over all columns."""
        ...

    @property
    def scales_agree(self) -> bool:
        """Whether `part_scales` are those of all columns: ranks side by side may differ."""
        ...

    def part_rows(self, part: Part, start: int, stop: int) -> Floats:
        """Returns rows of one part, pre-quant not applied."""
        ...

    def part_quantized(self, part: Part, start: int, stop: int) -> Quantized:
        """Returns rows of one part with their scales."""
        ...

    def part_as_stored(self, part: Part, start: int, stop: int) -> npt.NDArray[Any]:
        """Returns the numbers of one part's rows as files hold them; of INT4 one to a byte."""
        ...

    def part_scales(self, part: Part, start: int, stop: int) -> Floats:
        """Returns the scales of one part's rows."""
        ...


@dataclass(frozen=True)
class Reproduction:
    """A linear requantized from the source."""

    source: WeightRows
    recipe: LinearRecipe
    dtype: str
    """What weights were rounded to before they were quantized."""
    shared_amax: float
    divisors: tuple[Floats | None, ...]
    """Per part: what its columns were divided by before quantization."""
    folded: Floats | None = None
    """What the norm before the linear took over from its columns, or None."""
    stored_in: str | None = None
    """What vectors are stored in, where it is another dtype."""

    def smoothed_in(self, index: int) -> str | None:
        """Returns the dtype to whose unit a part's weight is known: the coarser one of both.

        None of a part that was not smoothed.
        """
        if self.divisors[index] is None:
            return None
        return max(self.dtype, self.stored_in or self.dtype, key=unit)

    def open_in(self, index: int) -> str | None:
        """Returns `smoothed_in` of a part whose roundings that leaves open: AWQ's; else None."""
        return self.smoothed_in(index) if self.recipe.format is WeightFormat.INT4_GROUP else None

    def weight(self, part: Part, index: int, start: int, stop: int) -> Floats:
        """Returns rows of the source as they are quantized: rounded, unfolded, smoothed."""
        weight = source_rows(self.source, part, start, stop, self.dtype)
        if self.folded is not None:
            weight = round_to(weight / self.folded[None, :], self.dtype)
        return smooth_by(weight, self.divisors[index], self.dtype)

    def quantize(self, weight: Floats) -> Quantized:
        """Quantizes and dequantizes rows that `weight` returned."""
        return quantize_rows(self.recipe, weight, self.shared_amax, self.dtype)

    def has_bits(self, part: Part, index: int, start: int, stop: int, stored: StoredParts) -> bool:
        """Says whether rows hold an honest export's very bits, if that is seen without making one.

        Yes means that all codes and scales equal those of `quantize`; no may mean either.
        """
        if self.open_in(index) is not None or not stored.scales_agree:
            return False
        there = stored.part_as_stored(part, start, stop)
        scales = stored.part_scales(part, start, stop)
        if self.divisors[index] is not None or self.folded is not None:
            return self._holds(self.weight(part, index, start, stop), there, scales)
        source = self.source.stored_rows(f"{part.module}.weight", start, stop)
        if source.dtype != model_dtype(self.dtype) or len(source) < stop - start:
            return self._holds(self.weight(part, index, start, stop), there, scales)
        if self.recipe.format is WeightFormat.PLAIN:
            return source.dtype == there.dtype and np.array_equal(bits(source), bits(there))
        if self.recipe.format is WeightFormat.FP8_TENSOR:
            return self._has_bytes(source, there, scales)
        return self._holds(source, there, scales)

    def _holds(self, weight: npt.NDArray[Any], there: npt.NDArray[Any], scales: Floats) -> bool:
        own = scales_of(self.recipe, weight, self.shared_amax, self.dtype)
        return np.array_equal(own, scales) and hold(self.recipe.format, widen(weight), own, there)

    def _has_bytes(self, source: npt.NDArray[Any], there: npt.NDArray[Any], scales: Floats) -> bool:
        """Looks each number's byte up: one scale is for all of a tensor, and bfloat16 is short."""
        if self.dtype != "bfloat16":
            return False
        table, scale = self._table
        return np.array_equal(table.take(bits(source)), bits(there)) and bool(
            (scales == scale).all()
        )

    @cached_property
    def _table(self) -> tuple[npt.NDArray[np.uint8], np.float32]:
        """The E4M3 byte of each bfloat16 number up to the shared maximum, and the scale."""
        largest = narrow(np.full(1, self.shared_amax, np.float32), "bfloat16")
        magnitudes = np.arange(int(bits(largest)[0]) + 1, dtype=np.uint16)
        numbers = widen(magnitudes.view(largest.dtype))[None, :]
        made = quantize_rows(self.recipe, numbers, self.shared_amax, self.dtype)
        table = np.zeros(1 << 16, np.uint8)
        codes = bits(encode_e4m3(made.codes[0]))
        table[: len(codes)] = codes
        table[_NEGATIVE : _NEGATIVE + len(codes)] = codes | np.uint8(0x80)
        return table, made.scales[0, 0]


def reproduce(
    source: WeightRows,
    place: LinearPlace,
    recipe: LinearRecipe,
    stored: StoredParts,
    *,
    dtype: str,
    stored_in: str,
    folded: Folding | None = None,
    as_stored: bool = False,
) -> Reproduction:
    """Prepares to requantize a linear: finds the shared maximum and the smoothing divisors.

    Weights were rounded to `dtype`; vectors are stored in `stored_in`, the checkpoint's.
    `as_stored` takes a vector as it is, instead of looking for the one that was used.

    A vector that a norm took over is recovered where that is possible, else taken as it is.
    """
    taken = None if folded is None else folded.ratio
    smoothed = recipe.prequant and can_recover(recipe.format, dtype, stored_in)
    if folded is not None and stored.prequant is None and smoothed:
        whole = Reproduction(
            source, recipe, dtype, 0.0, (None,) * len(place.parts), stored_in=stored_in
        )
        indices = range(len(place.parts))
        found = (
            recover_folded(folded, _pieces(whole, place, stored, one), dtype) for one in indices
        )
        return replace(whole, divisors=tuple(found))
    plain = Reproduction(source, recipe, dtype, 0.0, (None,) * len(place.parts), taken)
    if stored.prequant is None:
        divisors = plain.divisors
    elif can_recover(recipe.format, dtype, stored_in) and not as_stored:
        divisors = _divisors(plain, place, stored, (stored.prequant, stored_in))
    else:
        divisors = (stored.prequant,) * len(place.parts)
    amax = 0.0
    if recipe.format in (WeightFormat.FP8_TENSOR, WeightFormat.NVFP4):
        amax = max(_amax(source, module, dtype) for module in place.scale_group)
    return Reproduction(source, recipe, dtype, amax, divisors, taken, stored_in)


def row_chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of row ranges that fit the working set; starts are even."""
    step = max(_CHUNK_ELEMENTS // max(columns, 1), 2) // 2 * 2
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def sampled_rows(part: Part, run: int = _LONG_RUN) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of runs of rows that are spread over all of a part; starts are even."""
    step = max(part.rows * run // _SAMPLED_ROWS, run) // 2 * 2
    for start in range(0, part.rows, step):
        yield start, min(start + run, part.rows)


def source_rows(source: WeightRows, part: Part, start: int, stop: int, dtype: str) -> Floats:
    """Returns a part's source rows rounded to a dtype; padding rows are zero."""
    stored = source.stored_rows(f"{part.module}.weight", start, stop)
    values = widen(stored)
    if stored.dtype != model_dtype(dtype):
        values = round_to(values, dtype)
    missing = stop - start - len(values)
    if missing <= 0:
        return values
    return np.concatenate([values, np.zeros((missing, values.shape[1]), np.float32)])


def _divisors(
    plain: Reproduction, place: LinearPlace, stored: StoredParts, vector: tuple[Floats, str]
) -> tuple[Floats, ...]:
    """Recovers one divisor for all parts (SmoothQuant) or one for each (AWQ smooths twice).

    SmoothQuant's, too, is any number where activations were float32.
    """
    rows = partial(_pieces, plain, place, stored)
    recover = partial(recover_divisor, vector[0], dtype=plain.dtype, stored_in=vector[1])
    indices = range(len(place.parts))
    if plain.recipe.format is WeightFormat.INT8_CHANNEL and plain.dtype != "float32":
        some = (piece for index in indices for piece in rows(index, run=_SAMPLE_RUN))
        rest = (piece for index in indices for piece in _unread(plain, place, stored, index))
        divisor = recover(some, exact=True, everything=rest)
        return (divisor,) * len(place.parts)
    return tuple(recover(rows(index), exact=False) for index in indices)


def _pieces(
    plain: Reproduction,
    place: LinearPlace,
    stored: StoredParts,
    index: int,
    *,
    run: int = _LONG_RUN,
) -> Iterator[SmoothedRows]:
    """Yields enough rows of one part to choose AWQ's divisors, in runs spread over all of it."""
    part = place.parts[index]
    for rows in sampled_rows(part, run):
        yield _smoothed(plain, part, index, rows, stored)


def _smoothed(
    plain: Reproduction, part: Part, index: int, rows: tuple[int, int], stored: StoredParts
) -> SmoothedRows:
    weight = plain.weight(part, index, *rows)
    if stored.scales_agree:
        codes, scales = stored.part_as_stored(part, *rows), stored.part_scales(part, *rows)
        return SmoothedRows(weight, codes, scales)
    made = stored.part_quantized(part, *rows)
    return SmoothedRows(weight, made.codes, made.scales)


@dataclass(frozen=True)
class UnreadRows:
    """Rows of INT8 as they lie in the files: nothing is made of columns that nobody asks for."""

    source: WeightRows
    dtype: str
    part: Part
    start: int
    stop: int
    stored: StoredParts

    def at(self, columns: npt.NDArray[np.intp]) -> tuple[Floats, npt.NDArray[Any], Floats]:
        """Returns source weights, stored codes and the scale of each row."""
        rows = (self.part, self.start, self.stop)
        there = self.stored.part_as_stored(*rows)[:, columns]
        source = self.source.stored_rows(f"{self.part.module}.weight", *rows[1:], columns)
        return round_to(widen(source), self.dtype), there, self.stored.part_scales(*rows)


def _unread(
    plain: Reproduction, place: LinearPlace, stored: StoredParts, index: int
) -> Iterator[ColumnsOfRows]:
    """Yields all rows of one part of INT8."""
    part = place.parts[index]
    for start, stop in row_chunks(part.rows, place.columns // _FEW_OF):
        if stored.scales_agree and plain.folded is None:
            yield UnreadRows(plain.source, plain.dtype, part, start, stop, stored)
        else:
            yield _smoothed(plain, part, index, (start, stop), stored)


def _amax(source: WeightRows, module: str, dtype: str) -> float:
    """Returns the largest magnitude of one tensor in a dtype."""
    largest = source.largest(f"{module}.weight")
    return float(round_to(np.full(1, largest, np.float32), dtype)[0])
