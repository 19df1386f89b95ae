"""Rounding of activations to the numbers a quantized kernel would see, kept as float32.

The formulas are ModelOpt's (`modelopt/torch/quantization/tensor_quant.py`: `_fp8_eager`,
`_tensor_quant`), which are also what TensorRT's quantize and dequantize layers do: scale, saturate,
round half to even, scale back. All scales are multipliers that dequantize.
"""

from __future__ import annotations

import torch
from _linear_formats import NVFP4_BLOCK

E4M3_MAX = 448.0
INT8_MIN, INT8_MAX = -128.0, 127.0
"""ModelOpt's activation quantizers have `narrow_range=False`, so -128 is used."""

E2M1_MAX = 6.0
E2M1_STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SMALLEST_TOKEN_SCALE = 2.0**-24
"""Keeps a token of zeros from dividing by zero; ModelOpt's own epsilon."""


def to_e4m3(x: torch.Tensor) -> torch.Tensor:
    """Rounds to the nearest e4m3 number, saturating; NaN stays NaN."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(torch.float32)


def fp8_static(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rounds to e4m3 with one scale that calibration fixed."""
    return to_e4m3(x / scale) * scale


def fp8_per_token(x: torch.Tensor) -> torch.Tensor:
    """Rounds to e4m3 with a scale from each token's own largest value."""
    largest = x.abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > SMALLEST_TOKEN_SCALE, largest, 1.0) / E4M3_MAX
    return to_e4m3(x / scale) * scale


def int8_static(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rounds to int8 with one scale that calibration fixed."""
    return (x / scale).round().clamp(INT8_MIN, INT8_MAX) * scale


def nvfp4_dynamic(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rounds to e2m1 in blocks of 16, each with an e4m3 scale under one calibrated scale."""
    blocks = x.unflatten(-1, (-1, NVFP4_BLOCK))
    block_scale = to_e4m3(blocks.abs().amax(dim=-1, keepdim=True) / (E2M1_MAX * scale)) * scale
    safe = torch.where(block_scale > 0, block_scale, 1.0)
    return (to_e2m1(blocks / safe) * block_scale).flatten(-2)


def to_e2m1(x: torch.Tensor) -> torch.Tensor:
    """Rounds to the nearest of e2m1's 15 numbers, ties to the even mantissa, saturating."""
    size = x.abs().clamp(max=E2M1_MAX)
    step = torch.where(size < 2.0, 0.5, torch.where(size < 4.0, 1.0, 2.0))  # noqa: PLR2004
    return torch.copysign((size / step).round() * step, x)
