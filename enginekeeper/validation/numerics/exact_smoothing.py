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

from enginekeeper.validation.numerics.formats import INT8_MAX, Floats
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
    smooth_by,
    smoothquant_candidates,
)

_Columns = npt.NDArray[np.intp]


def exact_divisor(
    source: WeightRows,
    place: LinearPlace,
    recipe: LinearRecipe,
    stored: StoredParts,
    *,
    dtype: str,
    stored_in: str,
) -> Floats | None:
    """Returns the divisor that reproduces all parts of an INT8 linear, None if none was found.

    Weights are smoothed in `dtype`, and the vector is stored in `stored_in`.
    """
    if stored.prequant is None or not stored.scales_agree or not can_recover(recipe.format, dtype):
        return None
    candidates = smoothquant_candidates(stored.prequant, dtype, stored_in)
    divisor = candidates.first(stored.prequant)
    trial = _Trial(source, recipe, stored, dtype, candidates, divisor, [])
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
    read: list[UnreadRows]

    def reproduces(self, part: Part, start: int, stop: int) -> bool:
        """Takes rows in; says whether they are reproduced, perhaps by other candidates."""
        weight = source_rows(self.source, part, start, stop, self.dtype)
        there = self.stored.part_as_stored(part, start, stop)
        scales = self.stored.part_scales(part, start, stop)
        if not has_all_bits(scales):
            return False
        smoothed = smooth_by(weight, self.divisor, self.dtype)
        wrong = _wrong_columns(smoothed, scales, there)
        for _ in range(len(self.candidates.divisors)):
            if len(wrong):
                again = self._smoothed_again(wrong, weight[:, wrong], there[:, wrong], scales)
                if again is None:
                    return False
                smoothed[:, wrong] = again
            # All integers are reproduced now.
            off = np.flatnonzero(scales_of(self.recipe, smoothed, 0.0, self.dtype) != scales)
            if not len(off):
                rows = UnreadRows(self.source, self.dtype, part, start, stop, self.stored)
                self.read.append(rows)
                return True
            wrong = np.unique(np.abs(smoothed[off]).argmax(axis=1))
            self._strike_out(wrong)
        return False

    def _strike_out(self, columns: _Columns) -> None:
        """Leaves the present candidates of some columns out: they gave rows another scale."""
        tried = self.candidates.divisors[:, columns] == self.divisor[columns]
        self.candidates.valid[:, columns] &= ~tried

    def _smoothed_again(
        self, columns: _Columns, weight: Floats, there: npt.NDArray[Any], scales: Floats
    ) -> Floats | None:
        """Takes, for columns of some rows, candidates that reproduce these and all read before.

        Returns the columns smoothed so, None if one has no such candidate. Rows read before had
        their scales seen to, which other candidates must not change.
        """
        before = [one.at(columns) for one in self.read]
        if any((np.abs(codes.astype(np.int16)) >= INT8_MAX).any() for _, codes, _ in before):
            return None
        divisors = self.candidates.divisors[:, columns]
        others = self.candidates.valid[:, columns] & (divisors != self.divisor[columns])
        order, most = np.argsort(~others, axis=0, kind="stable"), others.sum(axis=0)
        smoothed, left = np.empty_like(weight), np.arange(len(columns))
        for turn in range(len(divisors)):
            if not len(left):
                break
            if (most[left] <= turn).any():
                return None
            chosen = divisors[order[turn, left], left]
            made = smooth_by(weight[:, left], chosen, self.dtype)
            fits = (np.rint(unscaled(made, scales)) == there[:, left]).all(axis=0)
            for rows, codes, own in before:
                same = integers(rows[:, left], chosen, own, self.dtype) == codes[:, left]
                fits &= same.all(axis=0)
            self.divisor[columns[left[fits]]] = chosen[fits]
            smoothed[:, left[fits]] = made[:, fits]
            left = left[~fits]
        return None if len(left) else smoothed


def _wrong_columns(smoothed: Floats, scales: Floats, there: npt.NDArray[np.integer]) -> _Columns:
    """Returns the columns with an integer that is not what the smoothed weight is rounded to."""
    steps = unscaled(smoothed, scales)
    np.rint(steps, out=steps)
    with np.errstate(invalid="ignore"):  # what is infinite has another scale
        differ = steps.astype(np.int8) != there
    return np.flatnonzero(differ.any(axis=0)) if differ.any() else np.zeros(0, np.intp)
