"""A short way to see that a part of an AWQ export is honest: sums only where it differs.

No AWQ tensor is reproduced bit for bit, because its pre-quant vector is known to a unit of bfloat16
only; so `weight_statistics` makes six sums of each block and column, and `weight_judgement` finds
nothing wrong. Here the same limits are seen to be kept without most of these sums:

- a block whose codes and scale are the recipe's is off by what the recipe is off by, and adds
  nothing to the gain. Where w = s (c - d) is the weight, c the recipe's code and s its scale, a
  block whose scale is s (1 + e) is off by s² of the sums of d² + 2 e c d + e² c², and each code
  that is another adds the difference of two squares;
- blocks, gain and error of the part are then held to the limits that `judge` has for the recipe's
  own rounding. It forgives more than that: scales rounded to half precision, and blocks whose
  scale is no worse over all that it is for;
- a column is held to what is added to the recipe's error there: up to 1.25 times that, or the
  floor that `judge` has, is within 1.5 times in error;
- a code that no rounding explains, or whatever else is not seen to be within a limit, is no
  judgement: the long way decides.

All limits are lowered by 2^-10, hundreds of times what the two ways' float32 sums differ by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import scales_of, unscaled
from enginekeeper.validation.numerics.reproduction import Reproduction, StoredParts, row_chunks
from enginekeeper.validation.numerics.same_numbers import has_all_bits
from enginekeeper.validation.weight_codes import SAME_SCALE, CodesInQuestion, strays_if_open
from enginekeeper.validation.weight_judgement import HONEST_FLOOR, SAME_ROUNDING, TIGHT
from enginekeeper.validation.weight_statistics import Sums

_Places = npt.NDArray[np.intp]

_LOWERED = 1 - 2.0**-10


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
    stored: StoredParts, reproduction: Reproduction, index: int, columns: int, part: Part
) -> Certificate | None:
    """Reads a part once and returns its certificate; None where `measure` must be asked.

    Of a part that gets one, `judge` finds nothing wrong in the statistics that `measure` makes.
    """
    if not reproduction.leaves_roundings_open(index) or reproduction.folded is not None:
        return None
    running = _Running(part, columns)
    for start, stop in row_chunks(part.rows, columns):
        weight = reproduction.weight(part, index, start, stop)
        scales = scales_of(
            reproduction.recipe, weight, reproduction.shared_amax, reproduction.dtype
        )
        if scales.shape[1] == 1 or not has_all_bits(scales):
            return None
        there = stored.part_as_stored(part, start, stop)
        rows = _Rows.of(weight, scales, there, stored.part_scales(part, start, stop))
        if not running.add(rows, reproduction):
            return None
    return running.certificate()


@dataclass(frozen=True)
class _Rows:
    """A chunk in steps of the recipe's scales: weight = scale x (code - distance)."""

    weight: Floats
    scales: Floats
    codes: Floats
    distance: Floats
    stored: npt.NDArray[Any]
    """The integers that are there."""
    ratio: Floats
    """Of the scales that are there to the recipe's."""
    stored_scales: Floats
    places: _Places
    """Of the integers that are not the recipe's."""

    @classmethod
    def of(
        cls, weight: Floats, scales: Floats, stored: npt.NDArray[Any], stored_scales: Floats
    ) -> _Rows:
        steps = unscaled(weight, scales)
        codes = np.rint(steps)
        return cls(
            weight=weight,
            scales=scales,
            codes=codes,
            distance=np.subtract(codes, steps, out=steps),
            stored=stored,
            ratio=stored_scales / scales,
            stored_scales=stored_scales,
            places=np.flatnonzero(codes.astype(np.int8) != stored),
        )

    def in_question(self) -> CodesInQuestion:
        """Returns the integers that are not the recipe's, and what they were made of."""
        blocks = self.places // self.group
        source = self.weight.reshape(-1)[self.places]
        honest, there = (one.reshape(-1)[blocks] for one in (self.scales, self.stored_scales))
        return CodesInQuestion(
            source / there,
            self.stored.reshape(-1)[self.places].astype(np.float32),
            source / honest,
            self.codes.reshape(-1)[self.places],
            np.abs(there - honest) / honest,
            there,
        )

    @property
    def group(self) -> int:
        return self.weight.size // self.scales.size


@dataclass
class _Running:
    """What was summed so far; one list for the blocks that differ."""

    part: Part
    columns: int
    differing: int = 0
    energy: float = 0.0
    excess: float = 0.0
    honest: float = 0.0
    added: float = 0.0
    """Squared error beyond the recipe's."""
    ratios: list[Floats] = field(default_factory=list)
    blocks: list[tuple[Sums, Sums]] = field(default_factory=list)
    """Squared error, and the recipe's, of blocks that are not the recipe's own."""
    per_column: Sums = field(init=False)
    added_per_column: Sums = field(init=False)

    def __post_init__(self) -> None:
        self.per_column = np.zeros(self.columns)
        self.added_per_column = np.zeros(self.columns)

    def add(self, rows: _Rows, reproduction: Reproduction) -> bool:
        """Takes a chunk in; says whether it may be honest."""
        deviation = np.abs(rows.ratio - 1)
        if not deviation.max() <= TIGHT.scale:
            return False
        codes = rows.in_question()
        if strays_if_open(reproduction.recipe.format, codes, reproduction.dtype).any():
            return False
        self.ratios.append(rows.ratio.reshape(-1))
        self.differing += len(rows.places)
        self.energy += float(np.dot(rows.weight.reshape(-1), rows.weight.reshape(-1)))
        energies = np.square(rows.scales.reshape(-1).astype(np.float64))
        honest = self._honest(rows, energies)
        added = np.zeros_like(honest)
        moved = np.flatnonzero(deviation)
        if not self._rescaled(rows, moved, energies, added):
            return False
        self._recoded(rows, codes, added)
        self.added += float(added.sum())
        touched = np.flatnonzero(added)
        self.blocks.append((honest[touched] + added[touched], honest[touched]))
        return True

    def _honest(self, rows: _Rows, energies: Sums) -> Sums:
        """Adds the recipe's own error to the columns, and returns that of the blocks."""
        squares = np.square(rows.distance)
        ones = np.ones(rows.group, np.float32)
        honest: Sums = (squares.reshape(-1, rows.group) @ ones) * energies
        self.honest += float(honest.sum())
        weights = np.square(rows.scales).T[:, None, :]
        grouped = squares.reshape(len(squares), -1, rows.group).transpose(1, 0, 2)
        self.per_column += np.matmul(weights, grouped).reshape(-1)
        return honest

    def _rescaled(self, rows: _Rows, moved: _Places, energies: Sums, added: Sums) -> bool:
        """Adds what other scales make of the recipe's codes; False if these are all zero."""
        codes, distance = (
            one.reshape(-1, rows.group).take(moved, axis=0) for one in (rows.codes, rows.distance)
        )
        by = rows.ratio.reshape(-1)[moved].astype(np.float64) - 1
        squares = np.einsum("ij,ij->i", codes, codes).astype(np.float64)
        products = np.einsum("ij,ij->i", codes, distance).astype(np.float64)
        self.excess += float((energies[moved] * by * (squares - products)).sum())
        added[moved] = energies[moved] * by * (2 * products + by * squares)
        # The same, column by column: e s² (2 d + e c) c.
        distance *= 2
        distance += codes * by.astype(np.float32)[:, None]
        distance *= codes
        distance *= (by * energies[moved]).astype(np.float32)[:, None]
        everywhere = np.zeros_like(rows.weight)
        everywhere.reshape(-1, rows.group)[moved] = distance
        self.added_per_column += np.ones(len(everywhere), np.float32) @ everywhere
        return bool(squares.all())

    def _recoded(self, rows: _Rows, codes: CodesInQuestion, added: Sums) -> None:
        """Adds what other codes make under the scales that are there."""
        blocks = rows.places // rows.group
        scales = rows.stored_scales.reshape(-1)[blocks].astype(np.float64)
        stored, honest, source = (
            one.astype(np.float64) for one in (codes.stored, codes.honest, codes.source)
        )
        worse = ((stored - source) ** 2 - (honest - source) ** 2) * scales**2
        added += np.bincount(blocks, worse, len(added))
        columns = rows.places % self.columns
        self.added_per_column += np.bincount(columns, worse, self.columns)
        self.excess += float(((stored - honest) * source * scales**2).sum())

    def certificate(self) -> Certificate | None:
        """Returns the certificate if every limit is seen to be kept."""
        ratios = np.concatenate(self.ratios)
        same_codes = 1.0 - self.differing / max(self.part.rows * self.columns, 1)
        deviation = np.abs(ratios - 1)
        if not self.differing and not deviation.any():
            return Certificate(self.part, same_codes, 0.0, 1.0, exact=True)
        if not (self.energy > 0 and self.honest > 0 and self._cells_are_kept(len(ratios))):
            return None
        gain = self.excess / self.energy
        error = math.sqrt(max(1 + self.added / self.honest, 0.0))
        kept = (
            same_codes >= SAME_ROUNDING
            and (self.differing > 0 or deviation.max() <= SAME_SCALE)
            # If more than half are within the limit, the middle one is.
            and 2 * np.count_nonzero(deviation <= TIGHT.scale_median * _LOWERED) > len(ratios)
            and abs(gain) <= TIGHT.gain * _LOWERED
            and error <= TIGHT.error * _LOWERED
        )
        return Certificate(self.part, same_codes, gain, error) if kept else None

    def _cells_are_kept(self, count: int) -> bool:
        """Says whether all blocks and columns are within their limits; most are by construction."""
        error, honest = (np.concatenate(sides) for sides in zip(*self.blocks, strict=True))
        floor = HONEST_FLOOR * self.honest
        most = TIGHT.block**2 * _LOWERED * np.maximum(honest, floor / count)
        room = (TIGHT.column**2 - 1) * _LOWERED * np.maximum(self.per_column, floor / self.columns)
        return bool((error <= most).all() and (self.added_per_column <= room).all())
