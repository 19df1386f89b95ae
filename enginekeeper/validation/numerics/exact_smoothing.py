"""SmoothQuant's divisors, found by reproducing with them all that is stored.

Rules:

- a linear is read once, with one candidate for each column: the first of those that the stored
  vector leaves open. Most have but one or two;
- a column with an integer that is not reproduced takes another candidate, which then has to
  reproduce all that was read so far. Where that may have changed a scale (its largest weight was
  the row's), or no candidate does, nothing was found: others say what is wrong;
- what was found reproduces every integer and every scale, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import (
    INT8_MAX,
    Floats,
    round_numbers,
    round_to,
)
from enginekeeper.validation.numerics.mapping import LinearPlace, Part
from enginekeeper.validation.numerics.recipes import LinearRecipe, scales_of, unscaled
from enginekeeper.validation.numerics.reproduction import (
    StoredParts,
    UnreadRows,
    WeightRows,
    row_chunks,
    source_rows,
)
from enginekeeper.validation.numerics.same_numbers import has_all_bits
from enginekeeper.validation.numerics.smoothing import (
    Candidates,
    can_recover,
    integers,
    smoothquant_candidates,
)

_ROUNDS = 3
"""How often candidates are chosen by some rows: by their integers, then by their scales."""

_Columns = npt.NDArray[np.intp]


def exact_divisor(
    source: WeightRows, place: LinearPlace, recipe: LinearRecipe, stored: StoredParts, dtype: str
) -> Floats | None:
    """Returns the divisor that reproduces all parts of an INT8 linear, None if none was found."""
    if stored.prequant is None or not stored.scales_agree or not can_recover(recipe.format, dtype):
        return None
    trial = _Trial.of(source, recipe, stored, stored.prequant, dtype)
    for part in place.parts:
        for start, stop in row_chunks(part.rows, place.columns):
            if not trial.reproduces(part, start, stop):
                return None
    return trial.divisor


@dataclass
class _Trial:
    """The candidates that are tried, and what was read of the linear."""

    source: WeightRows
    recipe: LinearRecipe
    stored: StoredParts
    dtype: str
    candidates: Candidates
    divisor: Floats
    factors: Floats
    """Reciprocals, for as many rows as are read at a time."""
    read: list[UnreadRows]

    @classmethod
    def of(
        cls,
        source: WeightRows,
        recipe: LinearRecipe,
        stored: StoredParts,
        prequant: Floats,
        dtype: str,
    ) -> _Trial:
        candidates = smoothquant_candidates(prequant, dtype)
        divisor = candidates.first(prequant)
        factors = (np.float32(1) / divisor)[None, :]
        return cls(source, recipe, stored, dtype, candidates, divisor, factors, [])

    def reproduces(self, part: Part, start: int, stop: int) -> bool:
        """Takes rows in; says whether they are reproduced, perhaps by other candidates."""
        weight = source_rows(self.source, part, start, stop, self.dtype)
        there = self.stored.part_as_stored(part, start, stop)
        scales = self.stored.part_scales(part, start, stop)
        if not has_all_bits(scales) or not np.isfinite(self.factors[0]).all():
            return False
        smoothed = self._smoothed(weight)
        wrong = _wrong_columns(smoothed, scales, there)
        for _ in range(_ROUNDS):
            if len(wrong):
                some = weight[:, wrong], there[:, wrong], scales
                if not self._chosen_again(wrong, some):
                    return False
                smoothed[:, wrong] = round_to(some[0] * self.factors[0, wrong], self.dtype)
            # All integers are reproduced now.
            off = np.flatnonzero(scales_of(self.recipe, smoothed, 0.0, self.dtype) != scales)
            if not len(off):
                rows = UnreadRows(self.source, self.dtype, part, start, stop, self.stored)
                self.read.append(rows)
                return True
            wrong = np.unique(np.abs(smoothed[off]).argmax(axis=1))
        return False

    def _smoothed(self, weight: Floats) -> Floats:
        rows = len(weight)
        if len(self.factors) < rows:
            self.factors = np.repeat(self.factors[:1], rows, axis=0)
        # Numbers beside numbers: row by row, this takes twice the time.
        with np.errstate(over="ignore"):
            smoothed: Floats = weight * self.factors[:rows]
        if self.dtype == "bfloat16":
            return round_numbers(smoothed)  # the source and the factors are finite
        return round_to(smoothed, self.dtype)

    def _chosen_again(
        self, columns: _Columns, last: tuple[Floats, npt.NDArray[Any], Floats]
    ) -> bool:
        """Takes, for some columns, candidates that reproduce all that was read, if there are any.

        Rows before the last had their scales seen to, which other candidates must not change.
        """
        pieces = [last, *(one.at(columns) for one in self.read)]
        for _, there, _ in pieces[1:]:
            if (np.abs(there.astype(np.int16)) >= INT8_MAX).any():
                return False
        failed = self.divisor[columns]
        open_ = np.ones(len(columns), np.bool_)
        for divisors, valid in zip(self.candidates.divisors, self.candidates.valid, strict=True):
            chosen = np.flatnonzero(open_ & valid[columns] & (divisors[columns] != failed))
            for weight, there, scales in pieces:
                if not len(chosen):
                    break
                made = integers(weight[:, chosen], divisors[columns[chosen]], scales, self.dtype)
                chosen = chosen[(made == there[:, chosen]).all(axis=0)]
            self.divisor[columns[chosen]] = divisors[columns[chosen]]
            open_[chosen] = False
        self.factors[:, columns] = np.float32(1) / self.divisor[columns]
        return not open_.any()


def _wrong_columns(smoothed: Floats, scales: Floats, there: npt.NDArray[np.integer]) -> _Columns:
    """Returns the columns with an integer that is not what the smoothed weight is rounded to."""
    steps = unscaled(smoothed, scales)
    np.rint(steps, out=steps)
    with np.errstate(invalid="ignore"):  # what is infinite has another scale
        differ = steps.astype(np.int8) != there
    return np.flatnonzero(differ.any(axis=0)) if differ.any() else np.zeros(0, np.intp)
