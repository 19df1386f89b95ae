"""Whether quantized rows hold what the recipe makes of a weight, found out without making it.

Rules:

- the answer is the one that comparing with `quantize_rows` would give: what is not plain from a
  distance is rounded and compared number by number;
- integers are rounded and compared as bytes;
- FP8 numbers are compared by the bits of float32, whose order is that of the numbers: between
  neighbouring normal FP8 numbers they go up by the same 2^20, so that what is nearer than 2^19 to
  a code rounds to it (below the normal numbers, neighbours are further apart than that);
- FP4 numbers are compared with the middle and the half width of what rounds to their code. The
  bounds have two bits, so that the difference is exact beside them, and rounded on the right side
  of them elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats, bits, decode_e2m1, decode_e4m3
from enginekeeper.validation.numerics.recipes import WeightFormat, unscaled

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Below it numbers have fewer bits."""

_BYTES = np.arange(256, dtype=np.uint8)

_E4M3_BITS = decode_e4m3(_BYTES).view(np.uint32)
"""Of each FP8 byte, as float32."""

_HALF_STEP = np.uint32(1 << 19)
"""Half of what the bits of float32 go up by from one FP8 number to the next."""


def _pairs(of_code: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Returns, for each byte of two FP4 codes, the two numbers that `of_code` has for them."""
    both = np.stack([of_code[_BYTES & 0x0F], of_code[_BYTES >> 4]], axis=1).astype(np.float32)
    return np.ascontiguousarray(both).view(np.uint64)[:, 0]


_E2M1_LOWER = np.array([-formats.E2M1_BOUNDS[0], *formats.E2M1_BOUNDS], np.float32)
_E2M1_UPPER = np.array([*formats.E2M1_BOUNDS, 11.0], np.float32)
"""What is between them rounds to the code; a scale's own rounding leaves nothing beyond 6.4."""

_E2M1_MIDDLES = _pairs(np.outer([0.5, -0.5], _E2M1_UPPER + _E2M1_LOWER).ravel())
_E2M1_WIDTHS = _pairs(np.outer([0.5, 0.5], _E2M1_UPPER - _E2M1_LOWER).ravel())


def hold(kind: WeightFormat, weight: Floats, scales: Floats, stored: npt.NDArray[Any]) -> bool:
    """Says whether `stored` are the numbers that a format has for a weight under its scales.

    `scales` are the recipe's for this weight; `stored` is as files hold it, but for INT4: one
    integer to a byte.
    """
    if not has_all_bits(scales):
        return False
    values = unscaled(weight, scales)
    match kind:
        case WeightFormat.INT8_CHANNEL | WeightFormat.INT4_GROUP:
            np.rint(values, out=values)
            return np.array_equal(values.astype(np.int8), stored)
        case WeightFormat.FP8_CHANNEL:
            return _hold_e4m3(values, bits(stored))
        case WeightFormat.NVFP4:
            return _hold_e2m1(values, stored)
        case _:
            return False


def has_all_bits(scales: Floats) -> bool:
    """Says whether scales are such that |weight| / scale ends where the format's range does."""
    return bool(scales.min() >= _SMALLEST_SCALE) and bool(np.isfinite(scales.max()))


def _hold_e4m3(values: Floats, codes: npt.NDArray[np.uint8]) -> bool:
    distance = values.view(np.uint32) - _E4M3_BITS.take(codes)
    distance += _HALF_STEP - np.uint32(1)  # what was nearer than half a step is now small
    limit = 2 * (_HALF_STEP - np.uint32(1))
    if distance.max() <= limit:
        return True
    places = np.flatnonzero(distance > limit)
    theirs = decode_e4m3(codes.reshape(-1)[places])
    return np.array_equal(formats.round_e4m3(values.reshape(-1)[places]), theirs)


def _hold_e2m1(values: Floats, packed: npt.NDArray[np.uint8]) -> bool:
    distance = _E2M1_MIDDLES.take(packed).view(np.float32)
    np.subtract(values, distance, out=distance)
    np.abs(distance, out=distance)
    places = np.flatnonzero(distance >= _E2M1_WIDTHS.take(packed).view(np.float32))
    bytes_, high = packed.reshape(-1)[places >> 1], (places & 1).astype(np.bool_)
    theirs = decode_e2m1(np.where(high, bytes_ >> 4, bytes_ & 0x0F))
    return np.array_equal(formats.round_e2m1(values.reshape(-1)[places]), theirs)
