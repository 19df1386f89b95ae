"""What the weights were divided by, where the checkpoint only keeps it rounded.

ModelOpt smooths a weight with a float32 vector s and exports bfloat16(s): the quantized integers
belong to a division that can no longer be done exactly. Inside the half unit that the rounding
left open, the value that reproduces the stored integers best is the one that was used:

- SmoothQuant (INT8) with alpha 1 divides by the reciprocal of a bfloat16 activation maximum: the
  few candidates are tried, and the right one reproduces every integer (measured on 150 of 150
  linears of SmolLM2-135M);
- AWQ (INT4) searches s freely and, for q, k and v, smooths twice: nine points of the interval are
  tried; integers that differ fall from 0.5 % to 0.1 % (0.4 % for q, k, v).

Where a norm took the vector over, what is stored is the norm times s in bfloat16: the interval is
that of the norm's last place, and searched as AWQ's.

The vector cannot leave its rounding interval, so that no error above half a unit in the last place
(0.4 %) can hide here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ml_dtypes import bfloat16

from enginekeeper.validation.numerics.formats import Floats, round_to
from enginekeeper.validation.numerics.recipes import Quantized, WeightFormat

_INTERVAL_POINTS = 9
"""Points tried per column where the divisor is a free float32."""


@dataclass(frozen=True)
class SmoothedRows:
    """Some rows of a linear: what was to be quantized, and what became of it."""

    weight: Floats
    """The source in the checkpoint's dtype."""
    stored: Quantized
    """Before the pre-quant vector."""


@dataclass(frozen=True)
class Folding:
    """What a norm took over from the columns of the linears that it feeds."""

    ratio: Floats
    """The stored norm over the source's."""
    unit: Floats
    """What a last place of the stored norm is of the ratio: how well it is known."""

    @classmethod
    def of(cls, stored: Floats, expected: Floats) -> Folding:
        """Compares a stored bfloat16 norm with the source's; equal numbers have a ratio of 1."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Floats = stored / expected
            unit = np.abs(np.spacing(stored.astype(bfloat16)).astype(np.float32) / expected)
        ratio[stored == expected] = 1
        return cls(ratio, unit)


def recover_divisor(
    prequant: Floats,
    rows: Iterable[SmoothedRows],
    *,
    exact: bool,
    everything: Iterable[SmoothedRows] = (),
) -> Floats:
    """Returns, per column, the divisor inside `prequant`'s rounding interval that fits best.

    `exact` says that the divisor is the reciprocal of a bfloat16 number. `everything` is asked of
    columns where `rows` do not leave one candidate alone that reproduces all of them.
    """
    unit = np.spacing(prequant.astype(bfloat16)).astype(np.float32)
    candidates = list(_reciprocals(prequant) if exact else _points(prequant, unit))
    # A candidate that would not be exported as this prequant was not the one used.
    valid = np.array([round_to(one, "bfloat16") == prequant for one in candidates])
    return _best(prequant, candidates, valid, (rows, everything))


def recover_folded(folding: Folding, rows: Iterable[SmoothedRows]) -> Floats:
    """Returns, per column, the divisor that fits best of those that round to the stored norm."""
    candidates = list(_points(folding.ratio, folding.unit))
    valid = np.ones((len(candidates), len(folding.ratio)), dtype=np.bool_)
    return _best(folding.ratio, candidates, valid, (rows,))


def _best(
    middle: Floats,
    candidates: list[Floats],
    valid: npt.NDArray[np.bool_],
    passes: Iterable[Iterable[SmoothedRows]],
) -> Floats:
    """Returns, per column, the valid candidate that reproduces the most of the stored integers.

    Each pass is for the columns that those before have not settled.
    """
    best = middle.copy()
    for candidate, ok in zip(reversed(candidates), valid[::-1], strict=True):
        best[ok] = candidate[ok]
    columns = np.flatnonzero(valid.sum(axis=0) > 1)
    for rows in passes:
        if not len(columns):
            break
        score = _Score.of(np.array(candidates)[:, columns], valid[:, columns], columns)
        for piece in rows:
            score.add(piece)
        if not score.read:
            continue
        best[columns] = score.best()
        columns = columns[~score.settled()]
    return best


@dataclass
class _Score:
    """How many stored integers each candidate reproduces, of those that tell candidates apart.

    An integer that the smallest and the largest candidate make is made by all between: division
    and rounding are monotonic. A few in a hundred are not, and only those are looked at closely.
    """

    candidates: Floats
    valid: npt.NDArray[np.bool_]
    columns: npt.NDArray[np.intp]
    ends: tuple[Floats, Floats]
    same: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]
    read: bool = False

    @classmethod
    def of(
        cls, candidates: Floats, valid: npt.NDArray[np.bool_], columns: npt.NDArray[np.intp]
    ) -> _Score:
        """Starts a count; every column has a valid candidate."""
        ends = (
            np.where(valid, candidates, np.inf).min(axis=0).astype(np.float32),
            np.where(valid, candidates, -np.inf).max(axis=0).astype(np.float32),
        )
        same = np.zeros(candidates.shape, np.int64)
        return cls(candidates, valid, columns, ends, same, np.zeros(len(columns), np.int64))

    def add(self, rows: SmoothedRows) -> None:
        """Counts the integers of some rows."""
        self.read = True
        width = rows.weight.shape[1]
        scales = rows.stored.scales
        if scales.shape[1] > 1:
            scales = np.repeat(scales, width // scales.shape[1], axis=1)
        weight, codes = rows.weight, rows.stored.codes
        if len(self.columns) < width:
            weight, codes = weight[:, self.columns], codes[:, self.columns]
            scales = scales[:, self.columns] if scales.shape[1] > 1 else scales
        low, high = (_integers(weight, one, scales) for one in self.ends)
        places = np.flatnonzero(low != high)
        columns = places % len(self.columns)
        weight, codes = weight.reshape(-1)[places], codes.reshape(-1)[places]
        scales = np.broadcast_to(scales, low.shape)[places // len(self.columns), columns]
        self.asked += np.bincount(columns, minlength=len(self.columns))
        hits = _integers(weight, self.candidates[:, columns], scales) == codes
        for same, hit in zip(self.same, hits, strict=True):
            np.add(same, np.bincount(columns[hit], minlength=len(self.columns)), out=same)

    def best(self) -> Floats:
        """Returns, per column, the first valid candidate of those that reproduce the most."""
        chosen = np.argmax(np.where(self.valid, self.same, -1), axis=0)
        best: Floats = self.candidates[chosen, np.arange(len(self.columns))]
        return best

    def settled(self) -> npt.NDArray[np.bool_]:
        """Marks columns where one valid candidate alone reproduces all."""
        whole = self.valid & (self.same == self.asked)
        settled: npt.NDArray[np.bool_] = whole.sum(axis=0) == 1
        return settled


def _integers(weight: Floats, divisor: Floats, scales: Floats) -> Floats:
    """Smooths and quantizes; what is not finite is no integer."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = round_to(weight * (np.float32(1) / divisor), "bfloat16")
        values /= scales
        return np.rint(values, out=values)


def smooth_by(weight: Floats, divisor: Floats | None, dtype: str) -> Floats:
    """Divides columns as ModelOpt does: times the float32 reciprocal, rounded to the dtype."""
    if divisor is None:
        return weight
    return round_to(weight * (np.float32(1) / divisor)[None, :], dtype)


def _reciprocals(prequant: Floats) -> Iterator[Floats]:
    """Yields 1/a for the bfloat16 numbers a around 1/prequant, the nearest first."""
    nearest = (np.float32(1) / prequant).astype(bfloat16).view(np.uint16)
    for offset in (0, 1, -1, 2, -2):
        neighbour = (nearest + np.uint16(offset % 65536)).view(bfloat16).astype(np.float32)
        yield np.float32(1) / neighbour


def _points(prequant: Floats, unit: Floats) -> Iterator[Floats]:
    """Yields points of the interval of one unit around what is stored, the middle first."""
    middle = _INTERVAL_POINTS // 2
    for index in sorted(range(_INTERVAL_POINTS), key=lambda i: abs(i - middle)):
        yield prequant + unit * np.float32((index - middle) / _INTERVAL_POINTS)


def can_recover(kind: WeightFormat, dtype: str) -> bool:
    """Says whether the divisor can be recovered: integer weights, smoothed in bfloat16."""
    return dtype == "bfloat16" and kind in (WeightFormat.INT8_CHANNEL, WeightFormat.INT4_GROUP)
