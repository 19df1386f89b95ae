"""What each recipe makes of a weight: quantize-dequantize in our own code, bit by bit as defined.

Rules, each verified against the checkpoints ModelOpt 0.47.0 exports (tests, docs/audits.md):

- the weight is first rounded to the checkpoint's dtype; all other arithmetic is float32;
- a scale is the largest magnitude of what shares it, divided by the format's largest value;
- a pre-quant vector p divides the columns first (rounded to the checkpoint's dtype again) and the
  result is quantized: what the engine multiplies by x·p is compared with W/p;
- per-tensor scales (FP8, the outer scale of NVFP4) are shared over the fused group.

Example:
    >>> recipe_for("W8A16").format
    <WeightFormat.INT8_CHANNEL: 'int8_channel'>
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt

from enginekeeper.errors import InputError
from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats

NVFP4_BLOCK = 16
"""Columns per block scale; fixed by the format."""

_FEW_COLUMNS = 32

_SMALLEST_BLOCK_SCALE = np.float32(2.0**-9)
"""The smallest positive E4M3: ModelOpt clamps there so that no block scale rounds to zero."""


class WeightFormat(Enum):
    """How the numbers of a linear's weight are stored."""

    PLAIN = "plain"
    FP8_TENSOR = "fp8_tensor"
    FP8_CHANNEL = "fp8_channel"
    INT8_CHANNEL = "int8_channel"
    INT4_GROUP = "int4_group"
    NVFP4 = "nvfp4"


ActivationKind = Literal["fp8_static", "fp8_per_token", "int8_static", "nvfp4"]

CALIBRATED = ("fp8_static", "int8_static", "nvfp4")
"""The kinds whose scale is stored beside the weight."""


class UnknownRecipeError(InputError):
    """A checkpoint names a quantization algorithm whose numbers are not known here."""


@dataclass(frozen=True)
class LinearRecipe:
    """What a quantization algorithm does to one linear."""

    format: WeightFormat
    activation: ActivationKind | None = None
    prequant: bool = False
    """Whether the recipe learns a vector that multiplies the activations first."""
    group_size: int | None = None
    """Columns per scale; None unless the format is grouped."""


PLAIN = LinearRecipe(WeightFormat.PLAIN)

_ALGORITHMS = {
    "NO_QUANT": PLAIN,
    "FP8": LinearRecipe(WeightFormat.FP8_TENSOR, "fp8_static"),
    "FP8_PER_CHANNEL_PER_TOKEN": LinearRecipe(WeightFormat.FP8_CHANNEL, "fp8_per_token"),
    "W8A16": LinearRecipe(WeightFormat.INT8_CHANNEL),
    "W8A8_SQ_PER_CHANNEL": LinearRecipe(WeightFormat.INT8_CHANNEL, "int8_static", prequant=True),
    "W4A16_AWQ": LinearRecipe(WeightFormat.INT4_GROUP, prequant=True, group_size=128),
    "W4A8_AWQ": LinearRecipe(WeightFormat.INT4_GROUP, "fp8_static", prequant=True, group_size=128),
    "NVFP4": LinearRecipe(WeightFormat.NVFP4, "nvfp4", group_size=NVFP4_BLOCK),
}
"""TensorRT-LLM's QuantAlgo values; group sizes are QuantConfig's defaults."""

QUANT_ALGOS = frozenset(
    {
        *_ALGORITHMS, "MIXED_PRECISION",
        "FP8_BLOCK_SCALES", "INT8", "MXFP8", "W4A16", "W4A16_GPTQ", "W4A16_MXFP4", "W4A8_MXFP4_FP8",
        "W4A8_MXFP4_MXFP8", "W4A8_NVFP4_FP8", "W4A8_QSERVE_PER_CHANNEL", "W4A8_QSERVE_PER_GROUP",
        "W8A16_GPTQ", "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
        "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
        "W8A8_SQ_PER_TENSOR_PLUGIN",
    }
)  # fmt: skip
"""All QuantAlgo values of TensorRT-LLM 1.2 and 1.3 (tensorrt_llm/quantization/mode.py)."""


def recipe_for(algorithm: str | None, group_size: int | None = None) -> LinearRecipe:
    """Returns what a QuantAlgo means; raises UnknownRecipeError for those not known here."""
    if algorithm is None:
        return PLAIN
    recipe = _ALGORITHMS.get(algorithm)
    if recipe is None:
        raise UnknownRecipeError(
            "this quantization algorithm's numbers are not known here",
            where="quantization.quant_algo",
            actual=algorithm,
            expected=", ".join(_ALGORITHMS),
        )
    if recipe.format is WeightFormat.INT4_GROUP and group_size:
        return LinearRecipe(recipe.format, recipe.activation, recipe.prequant, group_size)
    return recipe


def algorithm_that_stores(
    kind: WeightFormat, *, activation_scale: bool, prequant: bool
) -> str | None:
    """Returns the QuantAlgo whose linears consist of just these tensors, or None if there is none.

    AWQ may have folded its vector into a norm; SmoothQuant's is always stored.
    """
    for name, recipe in _ALGORITHMS.items():
        vector = recipe.prequant if prequant else recipe.activation != "int8_static"
        scale = (recipe.activation in CALIBRATED) is activation_scale
        if recipe.format is kind and vector and scale:
            return name
    return None


_CODES = {
    WeightFormat.INT4_GROUP: (-formats.INT4_MAX - 1, formats.INT4_MAX),
    WeightFormat.INT8_CHANNEL: (-formats.INT8_MAX - 1, formats.INT8_MAX),
    WeightFormat.FP8_TENSOR: (-formats.E4M3_MAX, formats.E4M3_MAX),
    WeightFormat.FP8_CHANNEL: (-formats.E4M3_MAX, formats.E4M3_MAX),
    WeightFormat.NVFP4: (-formats.E2M1_MAX, formats.E2M1_MAX),
}


def code_range(kind: WeightFormat) -> tuple[float, float]:
    """Returns the smallest and the largest number a quantized format holds."""
    return _CODES[kind]


def round_codes(kind: WeightFormat, values: Floats) -> Floats:
    """Rounds weight / scale to the nearest number of a quantized format, saturating."""
    clipped = np.clip(values, *code_range(kind))
    if kind in (WeightFormat.INT4_GROUP, WeightFormat.INT8_CHANNEL):
        whole: Floats = np.rint(clipped)
        return whole
    if kind is WeightFormat.NVFP4:
        return formats.round_e2m1(clipped)
    return formats.round_e4m3(clipped)


@dataclass(frozen=True)
class Quantized:
    """Some quantized rows: what the format holds, and the scales."""

    codes: Floats
    """Integers, FP8 or FP4 numbers; of what is not quantized the weights themselves."""
    scales: Floats
    """Dequantization multipliers, one row per weight row, one column per group or one."""

    @cached_property
    def values(self) -> Floats:
        """The weights that the rows stand for."""
        return scaled(self.codes, self.scales)


def scaled(codes: Floats, scales: Floats) -> Floats:
    """Multiplies codes by the scales of their rows and groups."""
    if scales.shape[1] == 1:
        return codes if (scales == 1).all() else codes * scales
    grouped = codes.reshape(len(codes), scales.shape[1], -1) * scales[:, :, None]
    return grouped.reshape(codes.shape)


def unscaled(weight: Floats, scales: Floats) -> Floats:
    """Divides weights by the scales of their rows and groups."""
    if scales.shape[1] == 1:
        return weight / scales
    grouped = weight.reshape(len(weight), scales.shape[1], -1) / scales[:, :, None]
    return grouped.reshape(weight.shape)


def quantize_rows(
    recipe: LinearRecipe, weight: Floats, shared_amax: float, dtype: str
) -> Quantized:
    """Quantizes and dequantizes rows of a weight that is already in `dtype`, the checkpoint's.

    `shared_amax` is the largest magnitude in the fused group; only per-tensor scales look at it.
    """
    scales = scales_of(recipe, weight, shared_amax, dtype)
    match recipe.format:
        case WeightFormat.PLAIN:
            return Quantized(weight, scales)
        case WeightFormat.FP8_TENSOR | WeightFormat.FP8_CHANNEL:
            return Quantized(formats.round_e4m3(unscaled(weight, scales)), scales)
        case WeightFormat.INT8_CHANNEL | WeightFormat.INT4_GROUP:
            # No clamping: |w| <= amax, so that nothing rounds beyond the limit.
            codes = unscaled(weight, scales)
            return Quantized(np.rint(codes, out=codes), scales)
        case WeightFormat.NVFP4:
            return Quantized(formats.round_e2m1(unscaled(weight, scales)), scales)
        case _:
            assert_never(recipe.format)


def scales_of(
    recipe: LinearRecipe, weight: npt.NDArray[Any], shared_amax: float, dtype: str
) -> Floats:
    """Returns the scales that a recipe gives rows of a weight, in float32 or as files hold them.

    Where all that share a scale are below the normal numbers of `dtype`, the checkpoint's, those
    give the scale, but for blocks.
    """
    columns, least = weight.shape[1], formats.smallest_normal(dtype)
    match recipe.format:
        case WeightFormat.PLAIN:
            return np.ones((len(weight), 1), np.float32)
        case WeightFormat.FP8_TENSOR:
            one = max(np.float32(shared_amax or 1.0), least) / np.float32(formats.E4M3_MAX)
            return np.full((len(weight), 1), one, np.float32)
        case WeightFormat.FP8_CHANNEL:
            return _amax(weight, columns, least=least) / np.float32(formats.E4M3_MAX)
        case WeightFormat.INT8_CHANNEL:
            return _amax(weight, columns, least=least) / np.float32(formats.INT8_MAX)
        case WeightFormat.INT4_GROUP:
            return _amax(weight, recipe.group_size or columns) / np.float32(formats.INT4_MAX)
        case WeightFormat.NVFP4:
            return _nvfp4_scales(weight, shared_amax)
        case _:
            assert_never(recipe.format)


def _nvfp4_scales(weight: npt.NDArray[Any], shared_amax: float) -> Floats:
    outer = np.float32(shared_amax or 1.0) / np.float32(formats.E2M1_MAX * formats.E4M3_MAX)
    inner = _amax(weight, NVFP4_BLOCK, zero=0.0) / (np.float32(formats.E2M1_MAX) * outer)
    inner[inner == 0] = 1.0
    np.clip(inner, _SMALLEST_BLOCK_SCALE, formats.E4M3_MAX, out=inner)
    return formats.round_e4m3(inner) * outer


def _amax(
    weight: npt.NDArray[Any], group: int, zero: float = 1.0, least: np.float32 | float = 0.0
) -> Floats:
    """Largest magnitude per row and group of columns, at least `least`; `zero` where all are 0."""
    if weight.shape[1] % group:
        raise UnknownRecipeError(
            "the group size does not divide the weight's columns",
            where="quantization.group_size",
            actual=group,
            expected=f"a divisor of {weight.shape[1]}",
        )
    # Without their sign, the bits are in the order of the numbers, infinity and NaN last.
    bits = formats.bits(weight)
    magnitude = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    if group == weight.shape[1]:
        largest = magnitude.max(axis=1)
    elif group <= _FEW_COLUMNS:
        # numpy takes as long to begin a group as for some tens of its numbers.
        largest = np.ascontiguousarray(magnitude.reshape(-1, group).T).max(axis=0)
    else:
        starts = np.arange(0, magnitude.size, group)
        largest = np.maximum.reduceat(magnitude.reshape(-1), starts)
    amax = formats.widen(largest.view(weight.dtype))
    empty = amax == 0
    np.maximum(amax, least, out=amax)
    amax[empty] = zero
    return amax.reshape(len(weight), weight.shape[1] // group)
