"""Rounding to the number formats of quantized weights, and their packing, in numpy.

Rules:

- every rounding is to nearest, ties to even: what ModelOpt, torch and the GPUs do;
- integers are clamped to the whole two's complement range, as ModelOpt clamps them;
- nothing here knows of scales: `recipes` makes them and `linears` reads them.

Example:
    >>> float(round_e4m3(np.float32([0.3]))[0])
    0.3125
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ml_dtypes import bfloat16, finfo, float8_e4m3fn

Floats = npt.NDArray[np.float32]

E4M3_MAX = 448.0
"""Largest finite value of FP8 E4M3 (the `fn` variant: no infinities)."""

E2M1_MAX = 6.0
"""Largest value of FP4 E2M1."""

INT8_MAX = 127.0
INT4_MAX = 7.0

BFLOAT16_ROUNDING = 2.0**-8
"""Largest relative change when a number is rounded to bfloat16."""

_BELOW_BFLOAT16 = np.uint32(0xFFFF)
"""The bits of a float32 that bfloat16 has not."""

_LOOKED_AT = 256

_EXPONENT = np.uint32(0x7F800000)
_SIGN = np.uint32(0x80000000)
_MANTISSA_BITS = 23
"""Of float32, like the exponent's place."""
_HALF_OF_IT = np.uint32(0x400000)

_E4M3_VALUES = np.arange(256, dtype=np.uint8).view(float8_e4m3fn).astype(np.float32)
_E2M1_VALUES = np.array(
    [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32
)
E2M1_BOUNDS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""Midpoints between neighbours; a tie goes to the even mantissa, i.e. up at every second one."""

_MODEL_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(bfloat16),
}


def model_dtype(dtype: str) -> np.dtype[Any]:
    """Returns how numpy holds a model's dtype."""
    return _MODEL_DTYPES[dtype]


def dtype_name(dtype: np.dtype[Any]) -> str | None:
    """Returns what a model calls a dtype of numpy's; None of one that no model has."""
    return next((name for name, one in _MODEL_DTYPES.items() if one == dtype), None)


def _info(dtype: str) -> finfo:
    return finfo(model_dtype(dtype))  # type: ignore[no-untyped-call]


def smallest_normal(dtype: str) -> np.float32:
    """Returns the smallest number that a model's dtype holds with all its digits."""
    return np.float32(_info(dtype).smallest_normal)


def unit(dtype: str) -> np.float32:
    """Returns the largest relative distance of neighbouring numbers of a model's dtype."""
    return np.float32(_info(dtype).eps)


def smallest_step(dtype: str) -> np.float32:
    """Returns the distance of a model's dtype's smallest numbers, which lose their digits."""
    return np.float32(_info(dtype).smallest_subnormal)


def bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the bits of numbers as integers of their size: two of them are compared as fast."""
    return values.view(f"u{values.dtype.itemsize}")


def widen(values: npt.NDArray[Any]) -> Floats:
    """Returns stored floats as float32, exactly (float64 is rounded)."""
    if values.dtype == np.float32:
        return values
    if values.dtype == bfloat16 and not values.flags.c_contiguous:  # a cast takes four times this
        bits = values.view(np.uint16).astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    if values.dtype == float8_e4m3fn:
        return decode_e4m3(values)
    return values.astype(np.float32)


def round_to(values: Floats, dtype: str) -> Floats:
    """Rounds to a model's dtype (`float32`, `float16`, `bfloat16`) and widens again."""
    if dtype == "float32" or (dtype == "bfloat16" and _is_bfloat16(values)):
        return values
    return _round_bfloat16(values) if dtype == "bfloat16" else widen(narrow(values, dtype))


def _is_bfloat16(values: Floats) -> bool:
    """Says whether no number would change; looking costs a fifth of what rounding does."""
    if not values.flags.c_contiguous:
        return False
    bits = values.reshape(-1).view(np.uint32)
    few = bits[:_LOOKED_AT] & _BELOW_BFLOAT16  # of other numbers nearly all have such bits
    return not few.any() and not np.bitwise_or.reduce(bits) & _BELOW_BFLOAT16


def _round_bfloat16(values: Floats) -> Floats:
    """Rounds to bfloat16 and widens again, at two thirds of the time of the conversions."""
    flat = np.ravel(values)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.isfinite(np.dot(flat, flat))
    return round_numbers(values.copy()) if numbers else widen(narrow(values, "bfloat16"))


def round_numbers(values: Floats) -> Floats:
    """Rounds to bfloat16 in place, ties to even; none may be NaN, whose bits end anywhere."""
    bits_of = values.view(np.uint32)
    up = bits_of >> np.uint32(16)
    up &= np.uint32(1)
    up += _BELOW_BFLOAT16 >> np.uint32(1)
    bits_of += up
    bits_of &= ~_BELOW_BFLOAT16
    return values


def narrow(values: Floats, dtype: str) -> npt.NDArray[Any]:
    """Rounds to a model's dtype and keeps it; float16 overflows to infinity without a warning."""
    with np.errstate(over="ignore"):
        return values.astype(model_dtype(dtype))


def encode_e4m3(values: Floats) -> npt.NDArray[Any]:
    """Rounds to FP8 E4M3; beyond 464 there is no nearest value and the result is NaN."""
    return values.astype(float8_e4m3fn)


def decode_e4m3(codes: npt.NDArray[Any]) -> Floats:
    """Returns the values of FP8 E4M3 numbers, or of the bytes that hold them."""
    values: Floats = _E4M3_VALUES.take(codes.view(np.uint8))  # half the time of an index
    return values


def round_e4m3(values: Floats) -> Floats:
    """Rounds to FP8 E4M3 and widens again; as `encode_e4m3` does, at a twentieth of its time."""
    rounded = _round_mantissa(values, bits=3, smallest=-6)
    # Written so that NaN is left to the conversion, as what is too large is.
    within = bool(rounded.size) and rounded.max() <= E4M3_MAX and rounded.min() >= -E4M3_MAX
    return rounded if within else decode_e4m3(encode_e4m3(values))


def round_e2m1(values: Floats) -> Floats:
    """Rounds to FP4 E2M1 and widens again, saturating at 6."""
    rounded = _round_mantissa(values, bits=1, smallest=0)
    return np.clip(rounded, -E2M1_MAX, E2M1_MAX, out=rounded)


def _round_mantissa(values: Floats, *, bits: int, smallest: int) -> Floats:
    """Rounds to `bits` mantissa bits, and to those of the exponent `smallest` below it.

    One and a half times a power of two is added that float32 has no finer steps beside than are
    wanted, and subtracted again: the addition rounds, ties to even.
    """
    bits_of = values.view(np.uint32)
    power = bits_of & _EXPONENT
    least = np.float32(2.0**smallest)
    np.maximum(power.view(np.float32), least, out=power.view(np.float32))  # integers take thrice
    power += np.uint32((_MANTISSA_BITS - bits) << _MANTISSA_BITS) | _HALF_OF_IT
    shift = power.view(np.float32)
    with np.errstate(invalid="ignore"):
        rounded: Floats = values + shift
        rounded -= shift
    # A small negative number has become +0: as copysign would, at a third of its time.
    signs = np.bitwise_and(bits_of, _SIGN, out=power)
    np.bitwise_or(rounded.view(np.uint32), signs, out=rounded.view(np.uint32))
    return rounded


def encode_e2m1(values: Floats) -> npt.NDArray[np.uint8]:
    """Rounds to FP4 E2M1, saturating at 6; a code is sign, two exponent bits, one mantissa bit."""
    magnitude = np.abs(values)
    code = np.zeros(values.shape, dtype=np.uint8)
    for index, bound in enumerate(E2M1_BOUNDS):
        code += (magnitude >= bound) if index % 2 else (magnitude > bound)
    code |= np.signbit(values).astype(np.uint8) << np.uint8(3)
    return code


def decode_e2m1(codes: npt.NDArray[np.uint8]) -> Floats:
    """Returns the values of FP4 E2M1 codes 0 to 15."""
    values: Floats = _E2M1_VALUES[codes]
    return values


def pack_int4_rows(values: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Packs two rows into one: row 2i in the low nibbles of row i, row 2i+1 in the high ones."""
    low = values[0::2].view(np.uint8) & np.uint8(0x0F)
    high = values[1::2].view(np.uint8) << np.uint8(4)
    packed: npt.NDArray[np.int8] = (low | high).view(np.int8)
    return packed


def unpack_int4_rows(packed: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Undoes `pack_int4_rows`: returns twice as many rows of values from -8 to 7."""
    values = np.empty((packed.shape[0], 2, *packed.shape[1:]), dtype=np.int8)
    np.multiply(packed, np.int8(16), out=values[:, 0])  # a shift to the left takes ten times this
    values[:, 1] = packed
    values >>= np.int8(4)
    return values.reshape(-1, *packed.shape[1:])


def pack_e2m1_columns(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Packs two columns into one: the even column in the low nibble."""
    packed: npt.NDArray[np.uint8] = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    return packed


def unpack_e2m1_columns(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undoes `pack_e2m1_columns`: returns twice as many columns of codes 0 to 15."""
    codes = np.empty((packed.shape[0], 2 * packed.shape[1]), dtype=np.uint8)
    codes[:, 0::2] = packed & np.uint8(0x0F)
    codes[:, 1::2] = packed >> np.uint8(4)
    return codes
