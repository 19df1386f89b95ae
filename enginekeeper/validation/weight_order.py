"""Whether a damaged part holds the right numbers in another order, and in which.

Rows and columns are recognised one by one by their direction, which scales and rounding leave
alone; what no row or column shows can still be the same codes, counted. A sample is looked at:
an order that only some rows are in is not told.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.numerics.reproduction import row_chunks
from enginekeeper.validation.weight_judgement import Indices, Judgement
from enginekeeper.validation.weight_suspects import Suspect

_ALIKE = 0.8
"""Cosine above which a stored row or column is taken to be a certain one of the source."""

_NEARLY_ALL = 0.8
"""Share of the sampled ones that must be recognised before their order is told."""

_MOST = 0.5
_SAMPLED = 64
"""Rows or columns that are looked for; each is held against all of the source's."""

_ROWS = 512
"""Rows that tell columns apart."""

_UNLIKE = -0.5
"""Gain below which what is stored has lost most of its likeness to the source."""

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Order:
    """Which order, as a finding says it."""

    taxonomy: str
    message: str


@dataclass(frozen=True)
class _Moved:
    """Sampled places, and which place of the source each holds."""

    here: Indices
    there: Indices

    def example(self, noun: str) -> str:
        first = int(np.flatnonzero(self.here != self.there)[0])
        return f"{noun} {self.here[first]} holds {noun} {self.there[first]}"


def other_order(suspect: Suspect, judgement: Judgement) -> Order | None:
    """Returns the order in which the source's numbers are stored, if it is that."""
    if judgement.blocks is None:
        return None
    rows = np.flatnonzero(judgement.blocks.mean(axis=1) > _MOST)
    if len(rows) > _MOST * suspect.part.rows:
        found = _on_its_side(suspect) or _rows(suspect, rows)
        if found is not None:
            return found
    return _columns(suspect, judgement) or _same_codes(suspect, judgement)


def _on_its_side(suspect: Suspect) -> Order | None:
    size = suspect.place.columns
    if suspect.part.rows != size:
        return None
    sample = np.linspace(0, size - 1, min(_SAMPLED, size)).astype(np.intp)
    stored = np.concatenate([suspect.effective(int(row), int(row) + 1) for row in sample])
    dot, energy = np.zeros(len(sample)), np.zeros(len(sample))
    for start, stop in row_chunks(size, size):
        source = suspect.source(start, stop)[:, sample]
        dot += (stored[:, start:stop] * source.T).sum(axis=1)
        energy += (source * source).sum(axis=0)
    norms = np.sqrt(np.maximum(energy * (stored * stored).sum(axis=1), _TINY))
    if (dot / norms > _ALIKE).mean() < _NEARLY_ALL:
        return None
    return Order("T5", "the matrix is transposed: its rows are the source's columns")


def _rows(suspect: Suspect, rows: Indices) -> Order | None:
    """Rows that are others of the same part; those of a head may be laid out for another RoPE."""
    sample = _some(rows)
    stored = _directions(np.concatenate([suspect.effective(int(r), int(r) + 1) for r in sample]))
    best, which = np.full(len(sample), -1.0), np.zeros(len(sample), np.intp)
    for start, stop in row_chunks(suspect.part.rows, suspect.place.columns):
        alike = stored @ _directions(suspect.source(start, stop)).T
        nearest = alike.argmax(axis=1)
        found = alike[np.arange(len(sample)), nearest]
        which = np.where(found > best, nearest + start, which)
        best = np.maximum(best, found)
    moved = _moved(sample, which, best)
    if moved is None:
        return None
    if suspect.part.label in ("q", "k") and _interleaved(suspect, moved):
        return Order(
            "T15",
            "the rows of each head are in the order of another kind of rotation (pairs beside each "
            f"other, or half a head apart): {moved.example('row')}",
        )
    return Order("T5", f"the rows are in another order: {moved.example('row')}")


def _interleaved(suspect: Suspect, moved: _Moved) -> bool:
    size = suspect.part.rows // (suspect.part.heads or 1)
    if size % 2:
        return False
    within = np.arange(size).reshape(2, -1).T.reshape(-1)
    orders = within, np.argsort(within)
    inside = moved.here // size == moved.there // size
    rows, sources = moved.here[inside] % size, moved.there[inside] % size
    return bool(inside.mean() > _NEARLY_ALL) and any(
        (order[rows] == sources).mean() > _NEARLY_ALL for order in orders
    )


def _columns(suspect: Suspect, judgement: Judgement) -> Order | None:
    """Columns that are others of the same part, the damaged ones if they are few."""
    every = np.arange(suspect.place.columns)
    damaged = every if judgement.columns is None else np.flatnonzero(judgement.columns)
    if len(damaged) < 2:  # noqa: PLR2004 - one column alone has nowhere to be from
        return None
    sample, rows = _some(damaged), min(suspect.part.rows, _ROWS)
    stored, source = suspect.effective(0, rows), suspect.source(0, rows)
    alike = _directions(stored[:, sample].T) @ _directions(source.T).T
    moved = _moved(sample, alike.argmax(axis=1), alike.max(axis=1))
    if moved is None:
        return None
    if len(damaged) == len(every) and (moved.there == (moved.here ^ 1)).all():
        return Order("T5", "the two columns of every pair (nibbles of a byte) are exchanged")
    return Order("T5", f"columns of the input are in another order: {moved.example('column')}")


def _moved(here: Indices, there: Indices, alike: npt.NDArray[np.floating]) -> _Moved | None:
    known = alike > _ALIKE
    if known.mean() < _NEARLY_ALL or (here[known] != there[known]).mean() <= _MOST:
        return None
    return _Moved(here[known], there[known])


def _same_codes(suspect: Suspect, judgement: Judgement) -> Order | None:
    """The very codes of an honest export, each as often, and not where they belong."""
    if judgement.gain is None or judgement.gain > _UNLIKE:
        return None
    counts: Counter[float] = Counter()
    for start, stop in row_chunks(suspect.part.rows, suspect.place.columns):
        weight = suspect.reproduction.weight(suspect.part, suspect.index, start, stop)
        honest = suspect.reproduction.quantize(weight).codes
        stored = suspect.stored.part_quantized(suspect.part, start, stop).codes
        counts.update(_counted(stored))
        counts.subtract(_counted(honest))
    if any(counts.values()):
        return None
    return Order("T5", "the codes are the right ones, in another order")


def _counted(codes: Floats) -> dict[float, int]:
    values, counts = np.unique(codes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _some(places: Indices) -> Indices:
    chosen = np.linspace(0, len(places) - 1, min(_SAMPLED, len(places))).astype(np.intp)
    return places[chosen]


def _directions(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows / np.maximum(norms, _TINY)
    return found
