"""How large the outputs of a linear behind an RMS norm can become, whatever the input.

What the norm gives out before its weight has squares that add up to n, so that no output is larger
than sqrt(n) times the length of its row with the norm's weight in it: Cauchy and Schwarz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.source_model import SourceModel


@dataclass(frozen=True)
class Reach:
    """One number for each output of a linear."""

    lengths: Floats
    """Of the rows, with the norm's weight in them."""
    bias: Floats
    """Magnitudes; zeros where the linear has none."""
    width: int
    """Numbers that the norm gives out."""

    @classmethod
    def of(cls, source: SourceModel, norm: str, module: str) -> Reach:
        """Reads a linear and the norm before it, by their Hugging Face names without suffix."""
        weight = source.rows(f"{norm}.weight")
        lengths = np.linalg.norm(source.rows(f"{module}.weight") * weight, axis=1)
        bias = np.zeros_like(lengths)
        if f"{module}.bias" in source:
            bias = np.abs(source.rows(f"{module}.bias"))
        return cls(lengths, bias, len(weight))

    @property
    def typical(self) -> float:
        """Root mean square of all outputs, over inputs without a direction of their own."""
        return math.sqrt(float((self.lengths**2 + self.bias**2).mean()))

    @property
    def largest(self) -> Floats:
        """What the magnitude of each output cannot exceed."""
        return self.lengths * math.sqrt(self.width) + self.bias
