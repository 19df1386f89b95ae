"""What the weights were divided by, where the checkpoint only keeps it rounded.

ModelOpt smooths a weight with a float32 vector s and exports it rounded to the checkpoint's dtype,
bfloat16 or float16: the quantized integers belong to a division that can no longer be done exactly.
Inside the half unit that the rounding left open, the value that reproduces the stored integers best
is the one that was used:

- SmoothQuant (INT8) with alpha 1 divides by the reciprocal of an activation maximum of that dtype,
  kept between 1e-4 and 1e4: the few candidates are tried, and the right one reproduces every
  integer (measured on 150 of 150 linears of SmolLM2-135M); of an exporter that divides by what it
  stores, that does, and is tried where no reciprocal did;
- AWQ (INT4) searches s freely and, for q, k and v, smooths twice: nine points of the interval are
  tried; integers that differ fall from 0.5 % to 0.1 % (0.4 % for q, k, v).

Where a norm took the vector over, what is stored is the norm times s in that dtype: the interval
is that of the norm's last place, and searched as AWQ's.

The vector cannot leave its rounding interval, so that no error above half a unit in the last place
(0.4 % of bfloat16) can hide here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import (
    Floats,
    model_dtype,
    narrow,
    round_numbers,
    round_to,
    smallest_step,
    unit,
    widen,
)
from enginekeeper.validation.numerics.recipes import WeightFormat, unscaled

_INTERVAL_POINTS = 9
"""Points tried per column where the divisor is a free float32."""


BOUNDS = np.array([1e-4, 1e4], np.float32)
"""Between which SmoothQuant keeps its divisors: channels of massive activations have the first,
silent ones the second, and neither is the reciprocal of a half-precision number."""

_FLOAT32 = 1e-6
"""Relative; far more than the few operations below can be off by in float32."""

_SMALLEST_SCALE = np.float32(2.0**-100)
"""Below it a smoothed weight may have no more all bits of a bfloat16 or float32 number."""

_COUNTED_AT_ONCE = 1 << 15
"""Integers; some candidates are tried on each."""

_Columns = npt.NDArray[np.intp]


class ColumnsOfRows(Protocol):
    """Some rows of a linear, before and after, of which columns are taken."""

    def at(self, columns: _Columns) -> tuple[Floats, npt.NDArray[Any], Floats]:
        """Returns source weights, stored codes of any type, and their scales.

        As many columns as there are to one scale of a row follow each other.
        """
        ...


@dataclass(frozen=True)
class SmoothedRows:
    """Some rows of a linear: what was to be quantized, and what became of it."""

    weight: Floats
    """The source in the checkpoint's dtype."""
    codes: npt.NDArray[Any]
    """Before the pre-quant vector."""
    scales: Floats

    def at(self, columns: _Columns) -> tuple[Floats, npt.NDArray[Any], Floats]:
        """Returns source weights, stored codes of any type, and their scales."""
        width, scales = self.weight.shape[1], self.scales
        if len(columns) == width:
            return self.weight, self.codes, scales
        if scales.shape[1] > 1:
            scales = scales[:, columns // (width // scales.shape[1])]
        return self.weight[:, columns], self.codes[:, columns], scales


@dataclass(frozen=True)
class Folding:
    """What a norm took over from the columns of the linears that it feeds."""

    ratio: Floats
    """The stored norm over the source's."""
    unit: Floats
    """What a last place of the stored norm is of the ratio: how well it is known."""
    not_finite: int = 0
    """How many of the stored weights are NaN or infinite."""

    @classmethod
    def of(cls, stored: Floats, expected: Floats, dtype: str) -> Folding:
        """Compares a stored norm with the source's; equal numbers have a ratio of 1.

        Of a weight of zero the ratio does not show: if all others have one, it is that.
        """
        silent = (stored == 0) & (expected == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Floats = stored / expected
            last = np.abs(_last_place(stored, dtype) / expected)
        ratio[stored == expected] = 1
        last[silent] = 0
        if silent.any() and not silent.all():
            common = np.median(ratio[~silent])
            with np.errstate(invalid="ignore"):
                same = np.abs(ratio - common) <= last
            if same[~silent].all():
                ratio[silent] = common
        return cls(ratio, last, int((~np.isfinite(stored)).sum()))


@dataclass(frozen=True)
class Candidates:
    """What is tried of each column."""

    divisors: Floats
    valid: npt.NDArray[np.bool_]
    """False where a candidate is not one of its column."""
    dtype: str
    """What a smoothed weight is rounded to."""

    def first(self, otherwise: Floats) -> Floats:
        """Returns the first valid candidate of each column, or what is taken where none is."""
        first = self.divisors[self.valid.argmax(axis=0), np.arange(len(otherwise))]
        return np.where(self.valid.any(axis=0), first, otherwise)


def recover_divisor(
    prequant: Floats,
    rows: Iterable[ColumnsOfRows],
    *,
    dtype: str,
    stored_in: str,
    exact: bool,
    everything: Iterable[ColumnsOfRows] = (),
) -> Floats:
    """Returns, per column, the divisor inside `prequant`'s rounding interval that fits best.

    Weights are smoothed in `dtype`, to which the vector is rounded, too, before it is stored in
    `stored_in`. `exact` says that the
    divisor is the reciprocal of a number of the dtype, a bound of those, or what is stored.
    `everything` is asked of columns where `rows` do not leave one candidate alone that reproduces
    all of them.
    """
    if exact:
        tried = smoothquant_candidates(prequant, dtype, stored_in)
    else:
        last = np.maximum(_last_place(prequant, dtype), _last_place(prequant, stored_in))
        points = _points(prequant, last)
        tried = _exported_as(prequant, points, dtype, stored_in)
    best, columns = _undecided(prequant, tried)
    for some in (rows, everything):
        columns = columns[~_vote(best, tried, columns, some)]
    return best


def smoothquant_candidates(prequant: Floats, dtype: str, stored_in: str) -> Candidates:
    """Returns what SmoothQuant may have divided by, or an exporter that uses what it stores."""
    tried = np.vstack([_reciprocals(prequant, dtype, stored_in), prequant])
    return _exported_as(prequant, tried, dtype, stored_in)


def _exported_as(prequant: Floats, candidates: Floats, dtype: str, stored_in: str) -> Candidates:
    """Takes those for valid that would be exported as this prequant, each but once."""
    valid: npt.NDArray[np.bool_] = (as_exported(candidates, dtype, stored_in) == prequant).any(
        axis=0
    )
    for index in range(1, len(candidates)):
        valid[index] &= (candidates[:index] != candidates[index]).all(axis=0)
    return Candidates(candidates, valid, dtype)


def as_exported(vector: Floats, dtype: str, stored_in: str) -> Floats:
    """Rounds a vector to what it is stored in: at once, and from what is computed in.

    ModelOpt keeps the vector in the model's dtype; others may keep it in float32.
    """
    return np.stack([round_to(one, stored_in) for one in (vector, round_to(vector, dtype))])


def recover_folded(folding: Folding, rows: Iterable[ColumnsOfRows], dtype: str) -> Floats:
    """Returns, per column, the divisor that fits best of those that round to the stored norm."""
    candidates = _points(folding.ratio, folding.unit)
    tried = Candidates(candidates, np.ones(candidates.shape, dtype=np.bool_), dtype)
    best, columns = _undecided(folding.ratio, tried)
    _vote(best, tried, columns, rows)
    return best


def _undecided(middle: Floats, tried: Candidates) -> tuple[Floats, _Columns]:
    """Returns the first valid candidate of each column, and the columns that have more of them."""
    return tried.first(middle), np.flatnonzero(tried.valid.sum(axis=0) > 1)


def _vote(
    best: Floats, tried: Candidates, columns: _Columns, rows: Iterable[ColumnsOfRows]
) -> npt.NDArray[np.bool_]:
    """Puts into `best` the valid candidates that reproduce the most of the stored integers.

    Returns which of the columns are settled: one candidate alone reproduces all.
    """
    score: _Score | None = None
    for piece in rows if len(columns) else ():
        score = score or _Score.of(tried, columns)
        score.add(piece)
    if score is None:
        return np.zeros(len(columns), np.bool_)
    best[columns] = score.best()
    return score.settled()


@dataclass
class _Score:
    """How many stored integers each candidate reproduces, of those that tell candidates apart.

    An integer that the smallest and the largest candidate make is made by all between: division
    and rounding are monotonic. A few in a hundred are not, and only those are looked at closely.
    """

    candidates: Floats
    valid: npt.NDArray[np.bool_]
    columns: npt.NDArray[np.intp]
    dtype: str
    ends: tuple[Floats, Floats]
    same: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]
    pending: list[tuple[Floats, Floats, Floats, _Columns]] = field(default_factory=list)
    """Weights, codes, scales and columns that are not counted yet: many at a time cost less."""

    @classmethod
    def of(cls, tried: Candidates, columns: _Columns) -> _Score:
        """Starts a count of some columns, all of which have a valid candidate."""
        candidates, valid = tried.divisors[:, columns], tried.valid[:, columns]
        if not valid.all():
            most = int(valid.sum(axis=0).max(initial=1))
            order = np.argsort(~valid, axis=0, kind="stable")[:most]  # those that are valid first
            candidates = np.take_along_axis(candidates, order, axis=0)
            valid = np.take_along_axis(valid, order, axis=0)
        ends = (
            np.where(valid, candidates, np.inf).min(axis=0).astype(np.float32),
            np.where(valid, candidates, -np.inf).max(axis=0).astype(np.float32),
        )
        same = np.zeros(candidates.shape, np.int64)
        asked = np.zeros(len(columns), np.int64)
        return cls(candidates, valid, columns, tried.dtype, ends, same, asked)

    def add(self, rows: ColumnsOfRows) -> None:
        """Takes the integers of some rows in."""
        weight, codes, scales = rows.at(self.columns)
        places = self._perhaps_telling(weight, scales)
        self.pending.append(
            (
                weight.reshape(-1)[places],
                codes.reshape(-1)[places].astype(np.float32),
                scales.reshape(-1)[places // (weight.size // scales.size)],
                places - places // len(self.columns) * len(self.columns),  # % takes five times that
            )
        )
        if sum(len(one) for *_, one in self.pending) > _COUNTED_AT_ONCE:
            self._count()

    def _count(self) -> None:
        """Counts the integers that were taken in."""
        if not self.pending:
            return
        weight, codes, scales, columns = (
            np.concatenate(side) for side in zip(*self.pending, strict=True)
        )
        self.pending.clear()
        low, high = (integers(weight, one[columns], scales, self.dtype) for one in self.ends)
        told = np.flatnonzero(low != high)
        columns = columns[told]
        made = integers(weight[told], self.candidates[:, columns], scales[told], self.dtype)
        hits = made == codes[told]
        count = len(self.columns)
        self.asked += np.bincount(columns, minlength=count)
        at = columns + count * np.arange(len(self.same))[:, None]
        self.same += np.bincount(at[hits], minlength=self.same.size).reshape(self.same.shape)

    def _perhaps_telling(self, weight: Floats, scales: Floats) -> npt.NDArray[np.intp]:
        """Returns the places of all weights that the two ends may round to different integers.

        What is further from a tie than the candidates and the rounding to the dtype move it is
        rounded to one integer by all; NaN is further from nothing.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            low, high = (np.float32(1) / one for one in self.ends)
            middle = (low + high) * np.float32(0.5)
            ratio = low / middle
            if not (scales.min() >= _SMALLEST_SCALE and ratio.min() > 0):
                return np.arange(weight.size)
            spread = np.abs(ratio - 1).max()
            rounding = unit(self.dtype) / 2
            below_normal = smallest_step(self.dtype) / 2 / scales.min()
            values = unscaled(weight * middle, scales)
            from_tie = np.rint(values)
            from_tie -= values
            np.abs(from_tie, out=from_tie)
            # |value - integer| < 1/2 - |value| * what is open
            np.abs(values, out=values)
            values *= np.float32((1 + spread) * (1 + rounding) - 1 + _FLOAT32)
            values += from_tie
            return np.flatnonzero(~(values < np.float32(0.5 - _FLOAT32 - below_normal)))

    def best(self) -> Floats:
        """Returns, per column, the first valid candidate of those that reproduce the most."""
        self._count()
        chosen = np.argmax(np.where(self.valid, self.same, -1), axis=0)
        best: Floats = self.candidates[chosen, np.arange(len(self.columns))]
        return best

    def settled(self) -> npt.NDArray[np.bool_]:
        """Marks columns where one valid candidate alone reproduces all."""
        self._count()
        whole = self.valid & (self.same == self.asked)
        settled: npt.NDArray[np.bool_] = whole.sum(axis=0) == 1
        return settled


def integers(weight: Floats, divisor: Floats, scales: Floats, dtype: str) -> Floats:
    """Smooths and quantizes; what is not finite is no integer."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = round_to(weight * (np.float32(1) / divisor), dtype)
        values /= scales
        return np.rint(values, out=values)


def smooth_by(weight: Floats, divisor: Floats | None, dtype: str) -> Floats:
    """Divides columns as ModelOpt does: times the float32 reciprocal, rounded to the dtype."""
    if divisor is None:
        return weight
    factor = np.float32(1) / divisor
    smoothed = weight * factor
    if dtype == "bfloat16" and np.isfinite(factor).all():
        return round_numbers(smoothed)  # the source is finite, so that no product is NaN
    return round_to(smoothed, dtype)


def _reciprocals(prequant: Floats, dtype: str, stored_in: str) -> Floats:
    """Returns 1/a for the numbers a of the dtype around 1/prequant, the nearest first.

    What would be beyond a bound is the bound.
    """
    nearest = narrow(np.float32(1) / prequant, dtype).view(np.uint16)
    # Half of a last place, which is up to twice as wide on one side of the reciprocal.
    reach = 1 + math.ceil(max(float(unit(stored_in) / unit(dtype)), 1))
    steps = sorted(range(-reach, reach + 1), key=lambda step: (abs(step), -step))
    neighbours = nearest + np.array(steps).astype(np.uint16)[:, None]
    reciprocals: Floats = np.float32(1) / widen(neighbours.view(model_dtype(dtype)))
    exported = as_exported(BOUNDS, dtype, stored_in)
    lowest, highest = exported[:, 0].min(), exported[:, 1].max()
    bounded = (prequant >= lowest) & (prequant <= highest)
    return np.where(bounded, np.clip(reciprocals, *BOUNDS), reciprocals)


def _last_place(stored: Floats, dtype: str) -> Floats:
    """Returns how far from numbers of the dtype the next ones are."""
    return widen(np.spacing(narrow(stored, dtype)))


def _points(prequant: Floats, last: Floats) -> Floats:
    """Returns points of the interval of one unit around what is stored, the middle first."""
    middle = _INTERVAL_POINTS // 2
    order = sorted(range(_INTERVAL_POINTS), key=lambda i: abs(i - middle))
    parts = np.array([(index - middle) / _INTERVAL_POINTS for index in order], np.float32)
    points: Floats = prequant + last * parts[:, None]
    return points


def can_recover(kind: WeightFormat, *dtypes: str) -> bool:
    """Says whether there is a divisor to recover: integer weights, and half precision in play."""
    half = any(dtype in ("bfloat16", "float16") for dtype in dtypes)
    return half and kind in (WeightFormat.INT8_CHANNEL, WeightFormat.INT4_GROUP)
