"""One weight of a source, and one as a checkpoint stores it, without any files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import (
    Floats,
    encode_e2m1,
    encode_e4m3,
    pack_e2m1_columns,
)
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import Quantized, WeightFormat


@dataclass(frozen=True)
class SingleWeight:
    """A source of one tensor, whatever its name."""

    weight: Floats

    def largest(self, name: str) -> float:
        del name
        return float(np.abs(self.weight).max())

    def stored_rows(
        self, name: str, start: int, stop: int, columns: npt.NDArray[np.intp] | None = None
    ) -> Floats:
        rows = self.rows(name, start, stop)
        return rows if columns is None else rows[:, columns]

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        del name
        return self.weight[start:stop]


@dataclass(frozen=True)
class StoredIntegers:
    """Integers with a scale for each row, or for each group of its columns."""

    codes: Floats
    scales: Floats
    prequant: Floats | None = None
    scales_agree: bool = True

    def part_rows(self, part: Part, start: int, stop: int) -> Floats:
        return self.part_quantized(part, start, stop).values

    def part_quantized(self, part: Part, start: int, stop: int) -> Quantized:
        return Quantized(self.codes[start:stop], self.part_scales(part, start, stop))

    def part_as_stored(self, part: Part, start: int, stop: int) -> npt.NDArray[np.int8]:
        del part
        return self.codes[start:stop].astype(np.int8)

    def part_scales(self, part: Part, start: int, stop: int) -> Floats:
        del part
        return self.scales[start:stop]


def as_stored(kind: WeightFormat, codes: Floats) -> npt.NDArray[Any]:
    """Returns codes as files hold them, INT4 one to a byte."""
    match kind:
        case WeightFormat.INT8_CHANNEL | WeightFormat.INT4_GROUP:
            return codes.astype(np.int8)
        case WeightFormat.FP8_TENSOR | WeightFormat.FP8_CHANNEL:
            return encode_e4m3(codes)
        case WeightFormat.NVFP4:
            return pack_e2m1_columns(encode_e2m1(codes))
        case WeightFormat.PLAIN:
            return codes
