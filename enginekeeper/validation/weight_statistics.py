"""How far a stored weight is from its source, and how far an honest export would be.

Everything is measured where the numbers were rounded: stored code x scale against the source
divided by the pre-quant vector. The unit is the block, a row's columns that share a scale (about
64 columns where a whole row does): a fault in one group of one row is seen as what it is, not
averaged away. Parts that an honest export reproduces bit for bit are only counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import Floats, smallest_step, unit
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import Quantized, WeightFormat
from enginekeeper.validation.numerics.reproduction import Reproduction, StoredParts, row_chunks
from enginekeeper.validation.weight_codes import (
    OPEN_SCALE,
    Changed,
    CodesInQuestion,
    far,
    in_half_precision,
    strays_if_open,
    strays_if_settled,
)
from enginekeeper.validation.weight_roundings import (
    Followed,
    Leaning,
    apart,
    followed,
    leaning,
    steps,
)

Sums = npt.NDArray[np.float64]
_Marks = npt.NDArray[np.bool_]

_BLOCK_COLUMNS = 64
"""Columns per block where the format has no groups: enough for a stable error, few for a place."""

_SMALLEST_UNIT = np.float32(2.0**-24)
"""The unit of float16 below its normal numbers, where no relative bound holds."""

_LOUD, _FEW_LOUD = 0.02, 4
"""Share of the columns that a trained model's outliers are in at most, and that many of few;
published ones are in far fewer."""

_MANY = 8
"""If more than one in so many numbers differ, all are looked at instead of those."""


@dataclass(frozen=True)
class Comparison:
    """Six sums over the same cells: blocks of rows and columns, or whole columns.

    `coarsest` says something of roundings: that of an unquantized part has no cells.
    """

    error: Sums
    """Squared error of the stored weight."""
    honest: Sums
    """Squared error an honest export makes there."""
    energy: Sums
    """Squared source weight."""
    excess: Sums
    """(stored - honest) x source; over the energy it is the gain the export added."""
    strays: Sums
    """How many codes differ from the honest ones and are not a neighbour that a tie, another order
    of arithmetic, or what is not known of a smoothed weight could have chosen; of an unquantized
    part how many weights differ by more than one unit in the last place. Of blocks only."""
    coarsest: Sums
    """The largest squared error that rounding each weight to either neighbour makes."""


@dataclass(frozen=True)
class PartStatistics:
    """What one part's rows look like beside an honest export of them."""

    part: Part
    columns: int
    kind: WeightFormat
    unit: np.float32
    """Largest relative distance of neighbouring numbers of the checkpoint's dtype."""
    step: np.float32
    """Distance of its smallest ones: what a weight is known to at most."""
    exact_rows: npt.NDArray[np.bool_]
    """Rows read in a chunk that equals the honest export bit for bit: their sums stay zero."""
    not_finite: int
    """How many of its stored weights are NaN or infinite."""
    same_codes: float
    """Share of the codes that equal the honest export's."""
    changed: Changed
    """Of other formats than integers nothing is counted."""
    followed: Callable[[], Followed]
    """Returns what follows from the scales that are stored; reads the part again, as the next.

    Each does so when it is asked for the first time.
    """
    leaning: Callable[[], Leaning]
    blocks: Comparison
    """One cell per (row, block of columns); none at all when the part is exact."""
    per_column: Comparison
    scales: Floats
    """As stored, one row per weight row."""
    honest_scales: Floats
    divisor: Floats | None = None
    """What columns were divided by before they were rounded, of a smoothed part."""

    @property
    def exact(self) -> bool:
        """Whether the whole part equals an honest export bit for bit."""
        return bool(self.exact_rows.all())

    @property
    def rounds(self) -> bool:
        """Whether an honest export makes any error."""
        return bool(self.blocks.honest.any())

    @property
    def gain(self) -> float:
        """Least-squares gain of the stored rows minus that of an honest export."""
        return float(self.blocks.excess.sum() / max(self.blocks.energy.sum(), _TINY))

    @property
    def error_ratio(self) -> float:
        """Root mean square error over an honest export's; infinite where that makes none."""
        honest, error = float(self.blocks.honest.sum()), float(self.blocks.error.sum())
        if honest == 0:
            return 1.0 if error == 0 else math.inf
        return math.sqrt(error / honest)

    @property
    def quiet_error_ratio(self) -> float:
        """The error ratio of all columns but the loudest few.

        Largest weights, which give the scales, are exact in an honest export and in no other. Where
        one column is far louder than all others, that is the whole error.
        """
        columns = self.per_column
        loudest = max(round(_LOUD * len(columns.energy)), _FEW_LOUD)
        quiet = np.argsort(columns.energy)[:-loudest]
        honest, error = float(columns.honest[quiet].sum()), float(columns.error[quiet].sum())
        return math.sqrt(error / honest) if honest else self.error_ratio

    @property
    def in_source(self) -> tuple[float, float]:
        """Gain and error ratio with columns weighted as in the source, not as smoothed.

        Smoothing makes some columns large that the vector makes small again in the product: one
        clipped weight can hold half the energy of a smoothed part, and nothing of the source's.
        """
        if self.divisor is None:
            return self.gain, self.error_ratio
        cells, weight = self.per_column, self.divisor.astype(np.float64) ** 2
        gain = float((cells.excess * weight).sum() / max((cells.energy * weight).sum(), _TINY))
        honest, error = float((cells.honest * weight).sum()), float((cells.error * weight).sum())
        return gain, math.sqrt(error / honest) if honest else self.error_ratio


_TINY = float(np.finfo(np.float64).tiny)


def measure(
    stored: StoredParts, reproduction: Reproduction, index: int, columns: int, part: Part
) -> PartStatistics:
    """Reads the part `index` of a linear once, chunk by chunk, and returns its statistics."""
    recipe, dtype = reproduction.recipe, reproduction.dtype
    running = _Running(part, columns, recipe.format, dtype, reproduction.smoothed_in(index))

    def rows(start: int, stop: int) -> _Rows:
        weight = reproduction.weight(part, index, start, stop)
        honest = reproduction.quantize(weight)
        there = stored.part_quantized(part, start, stop)
        return _Rows(weight, honest, there)

    exact = []
    for start, stop in row_chunks(part.rows, columns):
        if reproduction.has_bits(part, index, start, stop, stored):
            running.skip(slice(start, stop), stored.part_scales(part, start, stop))
            exact.append((start, stop))
        elif running.add(slice(start, stop), rows(start, stop)):
            exact.append((start, stop))
    if running.blocks:
        # Sums are of the whole part: what they say must not depend on where chunks end.
        for start, stop in exact:
            running.sum_up(slice(start, stop), rows(start, stop))
    return running.finish(stored, reproduction, index)


@dataclass(frozen=True)
class _Rows:
    source: Floats
    honest: Quantized
    stored: Quantized

    @property
    def exact(self) -> bool:
        """Whether all weights are those of an honest export; most are seen by their codes."""
        honest, stored = self.honest, self.stored
        same = all(
            np.array_equal(ours, theirs)
            for ours, theirs in ((honest.codes, stored.codes), (honest.scales, stored.scales))
        )
        return same or np.array_equal(honest.values, stored.values)

    def differing(self) -> _Marks:
        """Marks codes that are not the honest ones; NaN is none."""
        honest, stored = self.honest.codes, self.stored.codes
        marks: _Marks = honest != stored
        if np.count_nonzero(marks) > marks.size // _MANY:
            return apart(honest, stored)
        places = np.flatnonzero(marks)
        honest, stored = honest.reshape(-1)[places], stored.reshape(-1)[places]
        marks.reshape(-1)[places] = apart(honest, stored)
        return marks


@dataclass
class _Running:
    """The sums so far; arrays of blocks are made when the first inexact chunk shows their shape."""

    part: Part
    columns: int
    kind: WeightFormat
    dtype: str
    smoothed_in: str | None
    exact_rows: npt.NDArray[np.bool_] = field(init=False)
    differing: int = 0
    changed: Changed = field(init=False)
    not_finite: int = 0
    blocks: dict[str, Sums] = field(default_factory=dict)
    per_column: dict[str, Sums] = field(default_factory=dict)
    scales: list[tuple[Floats, Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exact_rows = np.zeros(self.part.rows, np.bool_)
        self.changed = Changed(self.part.rows)

    def add(self, where: slice, rows: _Rows) -> bool:
        """Takes a chunk in; if it is exact, says so and leaves it out of the sums."""
        self.scales.append((rows.honest.scales, rows.stored.scales))
        if rows.exact:
            self.exact_rows[where] = True
            return True
        self.sum_up(where, rows)
        return False

    def skip(self, where: slice, scales: Floats) -> None:
        """Takes in a chunk that was seen to be exact by its bits."""
        self.scales.append((scales, scales))
        self.exact_rows[where] = True

    def sum_up(self, where: slice, rows: _Rows) -> None:
        """Adds a chunk to the sums."""
        block = _block_columns(self.columns, rows.honest.scales.shape[1])
        if not self.blocks:
            shape = (self.part.rows, self.columns // block)
            plain = self.kind is WeightFormat.PLAIN
            sums = _SUMS if plain else (*_SUMS, "coarsest")
            self.blocks = _zeros((*sums, "strays"), shape)
            self.per_column = _zeros(sums, (self.columns,))
        differing = rows.differing()
        self.differing += int(np.count_nonzero(differing))
        self.not_finite += _not_finite(rows.stored.values)
        honest = rows.honest.values
        if self.kind is WeightFormat.PLAIN:
            strays = _beyond_a_unit(rows, unit(self.dtype))
        else:
            strays, halved = self._in_question(where, rows, differing)
            if len(halved):
                honest = honest.copy()
                honest.reshape(-1)[halved] = rows.stored.values.reshape(-1)[halved]
        self.blocks["strays"][where] = _block_sums(strays, block)
        for name, values in self._cells(rows, honest):
            self.blocks[name][where] = _block_sums(values, block)
            self.per_column[name] += _ones(len(values)) @ values  # a few rows: float32 is enough

    def _in_question(
        self, where: slice, rows: _Rows, differing: _Marks
    ) -> tuple[Floats, npt.NDArray[np.intp]]:
        """Marks codes that no honest rounding gives, and counts those that differ.

        Also returns which of them are honest after all: where all codes are those of a quotient
        that was rounded to half precision, as arithmetic in the model's own dtype gives.
        """
        strays = np.zeros(differing.shape, np.float32)
        places = np.flatnonzero(differing)
        codes = CodesInQuestion.of(places, rows.source, rows.honest, rows.stored)
        if self.kind in (WeightFormat.INT4_GROUP, WeightFormat.INT8_CHANNEL):
            live = (rows.stored.codes != 0) | (rows.honest.codes != 0)
            self.changed.add(where, live, differing, codes, far(self.kind, codes, self.smoothed_in))
        if self.smoothed_in is not None:
            strays.reshape(-1)[places] = strays_if_open(self.kind, codes, self.smoothed_in)
            return strays, places[:0]
        same_scales = bool((codes.deviation <= OPEN_SCALE).all())
        if len(places) and same_scales and in_half_precision(self.kind, rows.source, rows.stored):
            return strays, places
        strays.reshape(-1)[places] = strays_if_settled(codes)
        return strays, places[:0]

    def _cells(self, rows: _Rows, honest: Floats) -> Iterator[tuple[str, Floats]]:
        """Yields what is summed over blocks and columns, one after the other."""
        source, stored = rows.source, rows.stored.values
        yield "energy", source * source
        error = stored - source
        if self.kind is WeightFormat.PLAIN:  # the honest weight is the source
            yield "excess", error * source
        else:
            difference = stored - honest
            yield "excess", np.multiply(difference, source, out=difference)
            own = honest - source
            yield "honest", np.square(own, out=own)
            yield "coarsest", _coarsest(self.kind, source, rows.stored.scales)
        yield "error", np.square(error, out=error)

    def finish(self, stored: StoredParts, reproduction: Reproduction, index: int) -> PartStatistics:
        """Returns what was summed; `stored` and `reproduction` are what it was read from."""
        again = (stored, reproduction, index, self.columns, self.part)
        return PartStatistics(
            divisor=reproduction.divisors[index],
            leaning=cache(partial(leaning, *again)),
            part=self.part,
            columns=self.columns,
            kind=self.kind,
            unit=unit(self.dtype),
            step=smallest_step(self.dtype),
            exact_rows=self.exact_rows,
            not_finite=self.not_finite,
            same_codes=1.0 - self.differing / max(self.part.rows * self.columns, 1),
            changed=self.changed,
            followed=cache(partial(followed, *again)),
            blocks=Comparison(**{**_NOTHING, **self.blocks}),
            per_column=Comparison(**{**_NOTHING, **self.per_column}),
            scales=np.concatenate([stored for _, stored in self.scales]),
            honest_scales=np.concatenate([honest for honest, _ in self.scales]),
        )


_SUMS = ("error", "honest", "energy", "excess")


def _zeros(names: Iterable[str], shape: tuple[int, ...]) -> dict[str, Sums]:
    return {name: np.zeros(shape) for name in names}


_NOTHING = _zeros((*_SUMS, "coarsest", "strays"), (0, 0))


def _ones(count: int) -> Floats:
    return np.ones(count, np.float32)


def _block_sums(values: Floats, block: int) -> Floats:
    """Sums runs of columns; as a product with ones it takes a sixth of the time."""
    sums: Floats = values.reshape(-1, block) @ _ones(block)
    return sums.reshape(len(values), -1)


def _not_finite(values: Floats) -> int:
    """Counts NaN and infinities; where the squares add up to a number there are none."""
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        none = np.isfinite(np.dot(flat, flat))
    return 0 if none else int((~np.isfinite(values)).sum())


def _block_columns(columns: int, groups: int) -> int:
    """Columns per block: the format's own group, else the divisor nearest below 64, else a row."""
    if groups > 1:
        return columns // groups
    for size in range(min(_BLOCK_COLUMNS, columns), 7, -1):
        if columns % size == 0:
            return size
    return columns


def _beyond_a_unit(rows: _Rows, one: np.float32) -> Floats:
    """Marks weights that no other conversion to the checkpoint's format would have given."""
    honest, stored = rows.honest.values, rows.stored.values
    allowed = np.abs(honest)
    allowed *= one
    allowed += _SMALLEST_UNIT
    difference = stored - honest
    np.abs(difference, out=difference)
    # Written so that NaN is beyond.
    beyond: Floats = np.logical_not(difference <= allowed).astype(np.float32)
    return beyond


def _coarsest(kind: WeightFormat, source: Floats, scales: Floats) -> Floats:
    """Returns the largest squared error that rounding to either neighbour makes of a weight."""
    step = steps(kind, source, scales)
    return step * step
