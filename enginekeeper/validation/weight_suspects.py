"""A part under suspicion, looked at again: whose rows are these, if not the ones they should be?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.numerics.mapping import LinearPlace, Part
from enginekeeper.validation.numerics.recipes import WeightFormat
from enginekeeper.validation.numerics.reproduction import (
    Reproduction,
    StoredParts,
    row_chunks,
    source_rows,
)
from enginekeeper.validation.weight_judgement import Indices, Mask

_ALIKE = 0.8
"""Cosine above which stored rows are taken to be certain source rows; even INT4 keeps 0.98,
unrelated rows of trained weights stay below 0.3."""

_SAMPLE_ROWS = 16
_MOST = 0.5
_QUARTERS = 4
_SEARCHED_ROWS = 64
"""A permutation of more rows than this is described, not solved."""


@dataclass(frozen=True)
class Suspect:
    """A part that is not what it should be, with the means to look at it again."""

    place: LinearPlace
    index: int
    format: WeightFormat
    stored: StoredParts
    reproduction: Reproduction
    relatives: Callable[[], Iterator[tuple[str, str, int]]]
    """Yields (name, HF module, rows) of other linears of the model this could be a copy of."""
    gains: tuple[float, ...] = (0.0,)
    """What each part of the linear added to its gain."""

    @property
    def part(self) -> Part:
        """The part in question."""
        return self.place.parts[self.index]

    @property
    def label(self) -> str:
        """How a finding names it."""
        label = f" ({self.part.label})" if self.part.label else ""
        return self.place.name + label

    def row(self, row: int) -> tuple[Floats, Floats]:
        """Returns one row as stored, and as an honest export would hold it."""
        weight = self.reproduction.weight(self.part, self.index, row, row + 1)
        stored = self.stored.part_rows(self.part, row, row + 1)
        return stored[0], self.reproduction.quantize(weight).values[0]

    def effective(self, start: int, stop: int) -> Floats:
        """Returns stored rows in the source's own scale, the pre-quant vector applied."""
        stored = self.stored.part_rows(self.part, start, stop)
        return stored if self.stored.prequant is None else stored * self.stored.prequant

    def source(self, start: int, stop: int) -> Floats:
        """Returns the rows of the source that should be there; padding rows are zero."""
        from_model, dtype = self.reproduction.source, self.reproduction.dtype
        return source_rows(from_model, self.part, start, stop, dtype)

    def column_gains(self, columns: Indices) -> Floats:
        """Returns what each of four interleaved quarters of the rows adds to the columns' gain."""
        dot = np.zeros((_QUARTERS, len(columns)))
        energy = np.zeros_like(dot)
        for start, stop in row_chunks(self.part.rows, self.place.columns):
            source = self.reproduction.weight(self.part, self.index, start, stop)
            excess = (
                self.stored.part_rows(self.part, start, stop)
                - self.reproduction.quantize(source).values
            )
            source, excess = source[:, columns], excess[:, columns]
            for quarter in range(_QUARTERS):
                dot[quarter] += (excess * source)[quarter::_QUARTERS].sum(axis=0)
                energy[quarter] += (source * source)[quarter::_QUARTERS].sum(axis=0)
        return (dot / np.maximum(energy, np.finfo(np.float64).tiny)).astype(np.float32)

    def column_fit(self) -> tuple[Floats, Floats]:
        """Returns per column what the stored one is of the right one, and their cosine."""
        dot, stored_energy, energy = (np.zeros(self.place.columns) for _ in range(3))
        for start, stop in row_chunks(self.part.rows, self.place.columns):
            source = self.reproduction.weight(self.part, self.index, start, stop)
            stored = self.stored.part_rows(self.part, start, stop)
            dot += (stored * source).sum(axis=0)
            stored_energy += (stored * stored).sum(axis=0)
            energy += (source * source).sum(axis=0)
        tiny = np.finfo(np.float64).tiny
        ratio = dot / np.maximum(energy, tiny)
        cosine = dot / np.sqrt(np.maximum(stored_energy * energy, tiny))
        return ratio.astype(np.float32), cosine.astype(np.float32)


def other_heads(suspect: Suspect, bad_rows: Mask) -> list[tuple[int, int]]:
    """Returns (head, head whose rows it holds) when that explains every damaged head."""
    heads = suspect.part.heads or 1
    if heads == 1:
        return []
    size = suspect.part.rows // heads
    wrong = np.flatnonzero(bad_rows.reshape(heads, size).mean(axis=1) > _MOST)
    sample = min(size, _SAMPLE_ROWS)
    sources = [suspect.source(head * size, head * size + sample) for head in range(heads)]
    found = []
    for head in wrong:
        stored = suspect.effective(int(head) * size, int(head) * size + sample)
        alike = [_cosine(stored, source) for source in sources]
        best = int(np.argmax(alike))
        if best != head and alike[best] > _ALIKE:
            found.append((int(head), best))
    return found if len(found) == len(wrong) else []


def other_linear(suspect: Suspect) -> str | None:
    """Returns the name of the linear whose weight is stored here, if it is another's."""
    sample = min(suspect.part.rows, _SAMPLE_ROWS)
    stored = suspect.effective(0, sample)
    for name, module, rows in suspect.relatives():
        if rows < sample:
            continue
        source = suspect.reproduction.source.rows(f"{module}.weight", 0, sample)
        if source.shape == stored.shape and _cosine(stored, source) > _ALIKE:
            return name
    return None


def other_rows(suspect: Suspect, rows: Indices) -> list[tuple[int, int]]:
    """Returns (row, row whose contents it holds) when damaged rows were permuted."""
    if not 1 < len(rows) <= _SEARCHED_ROWS:
        return []
    sources = np.concatenate([suspect.source(int(row), int(row) + 1) for row in rows])
    pairs = []
    for row in rows:
        stored = suspect.effective(int(row), int(row) + 1)
        alike = [_cosine(stored, source[None]) for source in sources]
        best = int(np.argmax(alike))
        if alike[best] > _ALIKE and rows[best] != row:
            pairs.append((int(row), int(rows[best])))
    return pairs if len(pairs) == len(rows) else []


def integers(values: Floats, scales: Floats) -> Floats:
    """Returns the integers that dequantized rows stand for."""
    with np.errstate(divide="ignore", invalid="ignore"):
        grouped = values.reshape(len(values), scales.shape[1], -1) / scales[:, :, None]
    rounded: Floats = np.rint(grouped).reshape(values.shape)
    return rounded


def _cosine(left: Floats, right: Floats) -> float:
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float((left * right).sum()) / norms if norms else 0.0
