"""A short way to see that a part of an AWQ export is honest: few sums, and each of them once.

No AWQ tensor is reproduced bit for bit, because its pre-quant vector is known to a unit of bfloat16
only; so `weight_statistics` makes six sums of each block and column, and `weight_judgement` finds
nothing wrong. Here the same limits are seen to be kept without most of these sums:

- t is the weight in steps of the recipe's scale, c the code that is there, d = c - t, and e what
  its scale is off, relative. A block is off by the sum of (d + e c)² steps, the recipe by that of
  d² less what each code that is not the nearest adds: the sums of d² give both, and those of t²
  and t d where e is not 0;
- blocks, gain and error of the part are then held to the limits that `judge` has for the recipe's
  own rounding. It forgives more than that: scales rounded to half precision, and blocks whose
  scale is no worse over all that it is for;
- of a column, the sums of d² are known, and by Cauchy and Schwarz what other scales add to them;
- a code that no rounding explains, or whatever else is not seen to be within a limit, is no
  judgement: the long way decides.

All limits are lowered by 2^-10, hundreds of times what the two ways' float32 sums differ by.

A vector is first taken as it is stored, which saves looking for the one that was used. Limits are
then about half as wide (`UNRECOVERED`), and the weight is not rounded to the checkpoint's dtype:
that moves it by less than what is not known of the vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import INT4_MAX, Floats, round_to
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import WeightFormat, scales_of, unscaled
from enginekeeper.validation.numerics.reproduction import (
    Reproduction,
    StoredParts,
    row_chunks,
    source_rows,
)
from enginekeeper.validation.numerics.same_numbers import has_all_bits
from enginekeeper.validation.weight_codes import SAME_SCALE, CodesInQuestion, strays_if_open
from enginekeeper.validation.weight_judgement import HONEST_FLOOR, SAME_ROUNDING, TIGHT, Limits
from enginekeeper.validation.weight_statistics import Sums

_Places = npt.NDArray[np.intp]

_LOWERED = 1 - 2.0**-10

UNRECOVERED = Limits(
    gain=0.001, error=1.025, block=1.25, column=1.4, scale=0.02, scale_median=0.001
)
"""For a vector taken as it is stored: what its rounding may hide is left to TIGHT's limits.

It moves a column by half a unit of bfloat16 (0.2 to 0.4 %), and with it the gain of a part by less
than 0.2 % and a scale by a unit. The largest values over the 210 parts of a healthy SmolLM2-135M
export were: gain 0.00202 (one part; the others 0.001), error 1.0015, block 1.06, column 1.05 (at
most 1.36 by what is known of it here), scale 0.0125, scale_median 0.
"""

_HALF_SQUARED = np.float32(0.25)


@dataclass(frozen=True)
class Certificate:
    """An honest part, and what a reader is told of it."""

    part: Part
    same_codes: float
    gain: float
    error_ratio: float
    exact: bool = False
    rounds: bool = True
    """Whether an honest export makes any error."""


def certify(
    stored: StoredParts,
    reproduction: Reproduction,
    index: int,
    columns: int,
    part: Part,
    *,
    as_stored: bool = False,
) -> Certificate | None:
    """Reads a part once and returns its certificate; None where `measure` must be asked.

    Of a part that gets one, `judge` finds nothing wrong in the statistics that `measure` makes.
    `as_stored`: the reproduction's vector is the stored one, which `UNRECOVERED` allows for.
    """
    smoothed_in = reproduction.open_in(index)
    if smoothed_in is None or reproduction.folded is not None:
        return None
    limits = UNRECOVERED if as_stored else TIGHT
    running = _Running(part, columns, smoothed_in, limits)
    for start, stop in row_chunks(part.rows, columns):
        weight, scales = _smoothed(reproduction, index, part, (start, stop), rounded=not as_stored)
        if scales.shape[1] == 1 or not has_all_bits(scales):
            return None
        there = stored.part_as_stored(part, start, stop)
        if not running.add(weight, scales, there, stored.part_scales(part, start, stop)):
            return None
    return running.certificate()


def _smoothed(
    whole: Reproduction, index: int, part: Part, rows: tuple[int, int], *, rounded: bool
) -> tuple[Floats, Floats]:
    """Returns source rows as they are quantized, not rounded where that is left out, and scales."""
    divisor, dtype = whole.divisors[index], whole.dtype
    if divisor is None or rounded or dtype != "bfloat16":
        weight = whole.weight(part, index, *rows)
        return weight, scales_of(whole.recipe, weight, whole.shared_amax, dtype)
    weight = source_rows(whole.source, part, *rows, dtype) * (np.float32(1) / divisor)
    scales = scales_of(whole.recipe, weight, whole.shared_amax, dtype)
    largest = np.float32(INT4_MAX)
    return weight, round_to(scales * largest, dtype) / largest


@dataclass
class _Running:
    """What was read so far, and the sums over blocks and columns.

    Steps are weight / scale of the recipe; a distance is the stored integer less that.
    """

    part: Part
    columns: int
    smoothed_in: str
    limits: Limits
    scales: list[Floats] = field(default_factory=list)
    """The recipe's, of one block after the other, as all that follows."""
    ratios: list[Floats] = field(default_factory=list)
    """Of the scales that are there to the recipe's."""
    blocks: list[Floats] = field(default_factory=list)
    """The sums of distance²."""
    rescaled: list[tuple[_Places, Floats, Floats]] = field(default_factory=list)
    """Blocks whose scale is another: places, and the sums of steps² and steps x distance."""
    energy: float = 0.0
    per_column: Sums = field(init=False)
    """Of the distances in the weight's own unit, squared."""
    moved: Sums | float = 0.0
    """Of each group of columns, at most: what the scales that are there add to that."""
    apart: list[tuple[_Places, Floats, Floats]] = field(default_factory=list)
    """Places, steps and distances of the integers that are not the nearest."""
    differing: int = 0
    read: int = 0

    def __post_init__(self) -> None:
        self.per_column = np.zeros(self.columns)

    def add(
        self, weight: Floats, scales: Floats, stored: npt.NDArray[Any], stored_scales: Floats
    ) -> bool:
        """Takes a chunk in; says whether it may be honest."""
        ratio = stored_scales / scales
        deviation = np.abs(ratio - 1)
        if not deviation.max() <= self.limits.scale:
            return False
        self.ratios.append(ratio.reshape(-1))
        self.scales.append(scales.reshape(-1))
        at_most = np.square(deviation * scales * np.float32(INT4_MAX + 1))
        self.moved = self.moved + at_most.sum(axis=0, dtype=np.float64)
        self.energy += float(np.dot(weight.reshape(-1), weight.reshape(-1)))
        steps = unscaled(weight, scales)
        distance = stored.astype(np.float32)
        distance -= steps
        squares = np.square(distance)
        self._sum_up(squares, np.square(scales))
        self._rescale(steps, distance, np.flatnonzero(deviation))
        self._set_apart(steps, distance, np.flatnonzero(squares >= _HALF_SQUARED))
        self.read += weight.size
        return self.differing <= (1 - SAME_ROUNDING) * self.part.rows * self.columns

    def _sum_up(self, squares: Floats, weights: Floats) -> None:
        rows, groups = weights.shape
        grouped = squares.reshape(rows, groups, -1).transpose(1, 0, 2)
        self.per_column += np.matmul(weights.T[:, None, :], grouped).reshape(-1)
        squares = squares.reshape(rows * groups, -1)
        self.blocks.append(squares @ np.ones(squares.shape[1], np.float32))

    def _rescale(self, steps: Floats, distance: Floats, blocks: _Places) -> None:
        group = steps.size // len(self.blocks[-1])
        some, apart = (one.reshape(-1, group).take(blocks, axis=0) for one in (steps, distance))
        places = blocks + self.read // group
        self.rescaled.append((places, np.vecdot(some, some), np.vecdot(some, apart)))

    def _set_apart(self, steps: Floats, distance: Floats, places: _Places) -> None:
        steps, distance = (one.reshape(-1)[places] for one in (steps, distance))
        other = np.rint(steps) != np.rint(steps + distance)  # of two nearest, one is the recipe's
        self.apart.append((places[other] + self.read, steps[other], distance[other]))
        self.differing += len(self.apart[-1][0])

    def certificate(self) -> Certificate | None:
        """Returns the certificate if every limit is seen to be kept."""
        ratios = np.concatenate(self.ratios)
        same_codes = 1.0 - self.differing / max(self.part.rows * self.columns, 1)
        deviation = np.abs(ratios - 1)
        if not self.differing and not deviation.any():
            return Certificate(self.part, same_codes, 0.0, 1.0, exact=True)
        if not self._scales_are_kept(deviation):
            return None
        return self._judged(_Apart.of(self), ratios, same_codes)

    def _scales_are_kept(self, deviation: Floats) -> bool:
        # If more than half are within the limit, the middle one is.
        within = np.count_nonzero(deviation <= self.limits.scale_median * _LOWERED)
        same = self.differing > 0 or bool(deviation.max() <= SAME_SCALE)
        return same and bool(2 * within > deviation.size)

    def _judged(self, apart: _Apart, ratios: Floats, same_codes: float) -> Certificate | None:
        squares = np.square(np.concatenate(self.scales).astype(np.float64))
        errors = squares * np.concatenate(self.blocks)
        honest = errors - apart.per_block
        moved, energy, both = (np.concatenate(one) for one in zip(*self.rescaled, strict=True))
        by, weights = ratios[moved].astype(np.float64) - 1, squares[moved]
        of_distance = both + errors[moved] / weights
        of_codes = energy + both + of_distance
        errors[moved] += weights * by * (2 * of_distance + by * of_codes)
        whole = float(honest.sum())
        if apart.strays or not (self.energy > 0 and whole > 0 and of_codes.all()):
            return None
        if not self._cells_are_kept(errors, honest, apart.per_column):
            return None
        gain = (float((weights * by) @ (energy + both)) + apart.excess) / self.energy
        ratio = math.sqrt(float(errors.sum()) / whole)
        if abs(gain) > self.limits.gain * _LOWERED or ratio > self.limits.error * _LOWERED:
            return None
        return Certificate(self.part, same_codes, gain, ratio)

    def _cells_are_kept(self, errors: Sums, honest: Sums, worse: Sums) -> bool:
        """Says whether all blocks and columns are within their limits."""
        floor = HONEST_FLOOR * float(honest.sum())
        most = self.limits.block**2 * _LOWERED * np.maximum(honest, floor / len(honest))
        if not (errors <= most).all():
            return False
        moved = np.repeat(self.moved, self.columns // np.size(self.moved))
        error = (np.sqrt(self.per_column) + np.sqrt(moved)) ** 2
        own = np.maximum(self.per_column - worse, floor / self.columns)
        return bool((error <= self.limits.column**2 * _LOWERED * own).all())


@dataclass(frozen=True)
class _Apart:
    """What integers that are not the nearest add to the recipe's error."""

    strays: bool
    """Whether there is one that no rounding explains."""
    per_block: Sums
    per_column: Sums
    excess: float
    """To the weight, times the weight."""

    @classmethod
    def of(cls, read: _Running) -> _Apart:
        """Looks at what was set apart."""
        ratios, scales = np.concatenate(read.ratios), np.concatenate(read.scales)
        places, steps, distance = (np.concatenate(one) for one in zip(*read.apart, strict=True))
        blocks = places // (read.part.rows * read.columns // len(scales))
        ratio, scale, nearest = ratios[blocks], scales[blocks], np.rint(steps)
        there = np.rint(steps + distance)
        codes = CodesInQuestion(
            steps / ratio, there, steps, nearest, np.abs(ratio - 1), scale * ratio
        )
        squares = np.square(scale.astype(np.float64))
        worse = (np.square(distance) - np.square(nearest - steps)) * squares
        return cls(
            bool(strays_if_open(WeightFormat.INT4_GROUP, codes, read.smoothed_in).any()),
            np.bincount(blocks, worse, len(scales)).astype(np.float64),
            np.bincount(places % read.columns, worse, read.columns).astype(np.float64),
            float(((there - nearest) * steps) @ squares),
        )
