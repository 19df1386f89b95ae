"""A linear layer computed from the tensors of a checkpoint, inside an exported graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _fake_quant as fake_quant
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _linear_formats import LinearFormat

    Tensors = Mapping[str, torch.Tensor]


def linear(x: torch.Tensor, layout: LinearFormat, tensors: Tensors) -> torch.Tensor:
    """Applies a linear layer: input rounded as the format says, weights dequantized on the way."""
    if layout.prequant:
        x = x * tensors["prequant_scaling_factor"].to(torch.float32)
    x = _rounded(x, layout, tensors)
    bias = tensors.get("bias")
    return torch.nn.functional.linear(
        x, dequantized(layout, tensors), None if bias is None else bias.to(torch.float32)
    )


def _rounded(x: torch.Tensor, layout: LinearFormat, tensors: Tensors) -> torch.Tensor:
    match layout.activation:
        case None:
            return x
        case "fp8_static":
            return fake_quant.fp8_static(x, tensors["activation_scaling_factor"])
        case "fp8_per_token":
            return fake_quant.fp8_per_token(x)
        case "int8_static":
            return fake_quant.int8_static(x, tensors["activation_scaling_factor"])
        case "nvfp4":
            return fake_quant.nvfp4_dynamic(x, tensors["activation_scaling_factor"])
        case other:
            raise AssertionError(other)


def dequantized(layout: LinearFormat, tensors: Tensors) -> torch.Tensor:
    """Returns the float32 weight of shape (outputs, inputs)."""
    weight = tensors["weight"]
    match layout.weight:
        case "plain":
            return weight.to(torch.float32)
        case "int8":
            return weight.to(torch.float32) * tensors["weights_scaling_factor"][:, None]
        case "fp8":
            return weight.to(torch.float32) * tensors["weights_scaling_factor"]
        case "fp8_rows":
            return weight.to(torch.float32) * tensors["per_channel_scale"][:, None]
        case "int4" | "int4_fp8":
            return _grouped(_unpack_int4(weight), tensors["weights_scaling_factor"])
        case "nvfp4":
            scales = tensors["weights_scaling_factor"].to(torch.float32)
            return _grouped(_unpack_e2m1(weight), scales * tensors["weights_scaling_factor_2"])
        case other:
            raise AssertionError(other)


def _grouped(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Multiplies each row's groups of columns with their scales."""
    rows, groups = scales.shape
    return (values.reshape(rows, groups, -1) * scales[:, :, None]).reshape(rows, -1)


def _unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Splits bytes into two output rows: the low nibble is the even one, two's complement."""
    signed = packed.view(torch.int8)
    low = (signed << 4) >> 4
    high = signed >> 4
    return torch.stack((low, high), dim=1).flatten(0, 1).to(torch.float32)


def _unpack_e2m1(packed: torch.Tensor) -> torch.Tensor:
    """Splits bytes into two input columns: the low nibble is the even one, sign in its top bit."""
    codes = torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2).to(torch.int32)
    steps = torch.tensor(fake_quant.E2M1_STEPS)
    size = steps[(codes & 0x7).to(torch.int64)]
    return torch.where(codes >= 8, -size, size)  # noqa: PLR2004 - the sign bit of four
