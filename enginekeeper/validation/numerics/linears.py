"""One linear of one rank of a TensorRT-LLM checkpoint, read as what it means.

The format is taken from the tensors themselves (number format, shapes, which scales are there),
not from the config: whether the two agree is for the audits to say. All scales are
dequantization multipliers. INT4 weights are packed two *rows* to a byte, FP4 two *columns*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from enginekeeper.errors import InputError
from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats, widen
from enginekeeper.validation.numerics.recipes import (
    NVFP4_BLOCK,
    ActivationKind,
    WeightFormat,
    scaled,
)
from enginekeeper.validation.tensor_files import StoredTensor

SUFFIXES = (
    "weight",
    "weights_scaling_factor",
    "weights_scaling_factor_2",
    "per_channel_scale",
    "activation_scaling_factor",
    "prequant_scaling_factor",
)
"""The tensors a linear may consist of, `bias` aside."""

_SCALED = {"weight", "weights_scaling_factor", "activation_scaling_factor"}
_USED: Mapping[WeightFormat, set[str]] = {
    WeightFormat.PLAIN: {"weight"},
    WeightFormat.FP8_TENSOR: _SCALED,
    WeightFormat.FP8_CHANNEL: {"weight", "per_channel_scale"},
    WeightFormat.INT8_CHANNEL: _SCALED | {"prequant_scaling_factor"},
    WeightFormat.INT4_GROUP: _SCALED | {"prequant_scaling_factor", "weights_scaling_factor_2"},
    WeightFormat.NVFP4: _SCALED | {"prequant_scaling_factor", "weights_scaling_factor_2"},
}
"""What a format may consist of."""

_PLAIN_DTYPES = ("F32", "F16", "BF16")
_MATRIX = 2


class MisshapenLinearError(InputError):
    """A linear's tensors do not fit together: a scale is missing or of another shape or format."""


@dataclass(frozen=True)
class Activation:
    """What happens to a linear's input before the multiplication."""

    kind: ActivationKind
    scale: float | None = None
    """Dequantization multiplier; None where the scale is found token by token."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the form of `twin.json`."""
        document: dict[str, Any] = {"kind": self.kind}
        return document if self.scale is None else {**document, "scale": self.scale}


@dataclass(frozen=True)
class StoredLinear:
    """A weight and what turns it back into numbers; rows come out as float32."""

    name: str
    format: WeightFormat
    rows: int
    columns: int
    weight: StoredTensor
    scales: Floats
    """One row per weight row (or a single one), one column per group (or a single one)."""
    prequant: Floats | None
    activation: Activation | None
    unused: tuple[str, ...] = ()
    """What is there beside these, and of no use to the format."""
    second_scale: float | None = None
    """Of packed INT4 that is multiplied in FP8: what its group scales are divided by."""

    @property
    def group(self) -> int:
        """Columns per scale."""
        return self.columns // int(self.scales.shape[1])

    def dequantize(self, start: int, stop: int) -> Floats:
        """Returns rows as the engine multiplies them with x·prequant: prequant is not applied."""
        codes = self.codes(start, stop)
        if self.format is WeightFormat.PLAIN:
            return codes
        return scaled(codes, self.scale_rows(start, stop))

    def codes(self, start: int, stop: int) -> Floats:
        """Returns what rows hold, before scales."""
        match self.format:
            case WeightFormat.INT4_GROUP:
                return self._unpacked(start, stop).astype(np.float32)
            case WeightFormat.NVFP4:
                halves = self.weight.rows(start, stop)
                return formats.decode_e2m1(formats.unpack_e2m1_columns(halves))
            case _:
                return widen(self.weight.rows(start, stop))

    def as_stored(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Returns rows in the format of the file; INT4, which packs rows, one integer to a byte."""
        if self.format is WeightFormat.INT4_GROUP:
            return self._unpacked(start, stop)
        return self.weight.rows(start, stop)

    def _unpacked(self, start: int, stop: int) -> npt.NDArray[np.int8]:
        # Hugging Face's format has the same two numbers in a byte without a sign
        packed = self.weight.rows(start // 2, (stop + 1) // 2).view(np.int8)
        return formats.unpack_int4_rows(packed)[start % 2 :][: stop - start]

    def scale_rows(self, start: int, stop: int) -> Floats:
        """Returns the scales of rows `start:stop`, one row each."""
        if len(self.scales) == 1:
            return np.broadcast_to(self.scales, (stop - start, self.scales.shape[1]))
        return self.scales[start:stop]


def read_linear(tensors: Mapping[str, StoredTensor], name: str) -> StoredLinear:
    """Reads a linear's scales and says what its weight is; raises MisshapenLinearError."""
    found = {s: tensors[f"{name}.{s}"] for s in SUFFIXES if f"{name}.{s}" in tensors}
    weight = found.get("weight")
    if weight is None:
        raise MisshapenLinearError("the tensor is missing", where=f"{name}.weight")
    if len(weight.shape) != _MATRIX:
        raise _misshapen(weight, "a matrix")
    if weight.dtype in _PLAIN_DTYPES:
        return _linear(name, WeightFormat.PLAIN, found, np.ones((1, 1), np.float32))
    match weight.dtype:
        case "F8_E4M3" if "per_channel_scale" in found:
            scales = _scale(found, name, "per_channel_scale", (weight.shape[0],))
            return _linear(name, WeightFormat.FP8_CHANNEL, found, scales[:, None])
        case "F8_E4M3":
            scales = _scale(found, name, "weights_scaling_factor", (1,))
            return _linear(name, WeightFormat.FP8_TENSOR, found, scales[:, None])
        case "I8":
            return _read_integer(name, found)
        case "U8" if _in_fp8_blocks(found):
            return _read_nvfp4(name, found)
        case "U8":  # Hugging Face's format packs INT4 so
            return _read_integer(name, found)
        case _:
            raise MisshapenLinearError(
                "the weight's number format is not one of a quantized linear",
                where=f"{name}.weight",
                actual=weight.dtype,
                expected="BF16, F16, F32, F8_E4M3, I8 or U8",
            )


def _read_integer(name: str, found: Mapping[str, StoredTensor]) -> StoredLinear:
    """Tells INT8 from packed INT4 by the scales: a vector per row, or a matrix over groups."""
    weight = found["weight"]
    stored = found.get("weights_scaling_factor")
    if stored is None or len(stored.shape) != _MATRIX:
        scales = _scale(found, name, "weights_scaling_factor", (weight.shape[0],))
        return _linear(name, WeightFormat.INT8_CHANNEL, found, scales[:, None])
    groups = stored.shape[1]
    if groups == 0 or weight.shape[1] % groups:
        raise _misshapen(stored, f"[{2 * weight.shape[0]}, a divisor of {weight.shape[1]}]")
    scales = _scale(found, name, "weights_scaling_factor", (2 * weight.shape[0], groups))
    return _linear(name, WeightFormat.INT4_GROUP, found, scales)


def _in_fp8_blocks(found: Mapping[str, StoredTensor]) -> bool:
    """Says whether the scales are NVFP4's, be the second one missing."""
    inner = found.get("weights_scaling_factor")
    if inner is not None and inner.dtype != "F8_E4M3":
        # Packed INT4 has two rows in one, and a second scale too if it is multiplied in FP8.
        return "weights_scaling_factor_2" in found and inner.shape[:1] == found["weight"].shape[:1]
    return inner is not None or "weights_scaling_factor_2" in found


def _read_nvfp4(name: str, found: Mapping[str, StoredTensor]) -> StoredLinear:
    weight = found["weight"]
    shape = (weight.shape[0], 2 * weight.shape[1] // NVFP4_BLOCK)
    inner = _scale(found, name, "weights_scaling_factor", shape, dtype="F8_E4M3")
    outer = _scale(found, name, "weights_scaling_factor_2", ())
    return _linear(name, WeightFormat.NVFP4, found, inner * outer)


def _linear(
    name: str, kind: WeightFormat, found: Mapping[str, StoredTensor], scales: Floats
) -> StoredLinear:
    weight = found["weight"]
    rows = weight.shape[0] * (2 if kind is WeightFormat.INT4_GROUP else 1)
    columns = weight.shape[1] * (2 if kind is WeightFormat.NVFP4 else 1)
    prequant = None
    if "prequant_scaling_factor" in found:
        prequant = widen(found["prequant_scaling_factor"].read()).reshape(-1)
        if len(prequant) != columns:
            raise _misshapen(found["prequant_scaling_factor"], f"[{columns}]")
    return StoredLinear(
        name=name,
        format=kind,
        rows=rows,
        columns=columns,
        weight=weight,
        scales=scales,
        prequant=prequant,
        activation=_activation(kind, found),
        unused=tuple(sorted(found.keys() - _USED[kind])),
        second_scale=_second_scale(name, kind, found),
    )


def _second_scale(name: str, kind: WeightFormat, found: Mapping[str, StoredTensor]) -> float | None:
    suffix = "weights_scaling_factor_2"
    if kind is not WeightFormat.INT4_GROUP or suffix not in found:
        return None
    return float(_scale(found, name, suffix, (1,))[0])


def _activation(kind: WeightFormat, found: Mapping[str, StoredTensor]) -> Activation | None:
    stored = found.get("activation_scaling_factor")
    if stored is None:
        return Activation("fp8_per_token") if kind is WeightFormat.FP8_CHANNEL else None
    if stored.shape not in ((), (1,)):
        raise _misshapen(stored, "[1]")
    scale = float(widen(stored.read()).reshape(-1)[0])
    match kind:
        case WeightFormat.INT8_CHANNEL:
            return Activation("int8_static", scale)
        case WeightFormat.NVFP4:
            return Activation("nvfp4", scale)
        case WeightFormat.FP8_TENSOR | WeightFormat.FP8_CHANNEL | WeightFormat.INT4_GROUP:
            return Activation("fp8_static", scale)
        case WeightFormat.PLAIN:
            return None
        case _:
            assert_never(kind)


def _scale(
    found: Mapping[str, StoredTensor],
    name: str,
    suffix: str,
    shape: tuple[int, ...],
    *,
    dtype: str = "F32",
) -> Floats:
    stored = found.get(suffix)
    if stored is None:
        raise MisshapenLinearError(
            "the scale is missing", where=f"{name}.{suffix}", expected=f"{dtype} {list(shape)}"
        )
    flat = shape in ((), (1,)) and stored.shape in ((), (1,))
    if stored.shape != shape and not flat:
        raise _misshapen(stored, str(list(shape)))
    # TensorRT-LLM's loader converts scales to its parameters' type: half precision is one of them.
    if stored.dtype != dtype and not (dtype == "F32" and stored.dtype in _PLAIN_DTYPES):
        raise MisshapenLinearError(
            "the scale has another number format",
            where=stored.name,
            actual=stored.dtype,
            expected=dtype,
        )
    return widen(stored.read()).reshape(shape if not flat else (1,))


def _misshapen(stored: StoredTensor, expected: str) -> MisshapenLinearError:
    return MisshapenLinearError(
        "the tensor's shape does not fit its linear",
        where=stored.name,
        actual=str(list(stored.shape)),
        expected=expected,
    )
