"""A benchmark's step: our rounding of activations beside ModelOpt's, number by number.

Runs in the modelopt toolchain. Job: `{"rows", "columns", "seed"}`; outputs, per rounding, how many
numbers differ by more than a float32 can tell apart, that is, fell on the other side of a tie.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "enginekeeper" / "steps"))

import _fake_quant as fake_quant
import torch
from _step import main
from modelopt.torch.quantization.config import QuantizerAttributeConfig
from modelopt.torch.quantization.nn import TensorQuantizer
from modelopt.torch.quantization.qtensor import NVFP4QTensor

EQUAL = 1e-6
"""Relative; ModelOpt multiplies with the reciprocal of the scale where we divide."""

AMAX = (3.0, 10.0)
"""Ranges of the static roundings: one saturates often, one seldom."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Rounds random activations, with outlying tokens, both ways."""
    torch.manual_seed(job["seed"])
    x = torch.randn(job["rows"], job["columns"]) * torch.randn(job["rows"], 1).exp()
    flips = {"fp8_static": 0, "int8_static": 0}
    for amax in AMAX:
        flips["fp8_static"] += _differing(
            _modelopt(x, (4, 3), amax), fake_quant.fp8_static(x, torch.tensor(amax / 448))
        )
        flips["int8_static"] += _differing(
            _modelopt(x, 8, amax), fake_quant.int8_static(x, torch.tensor(amax / 127))
        )
    per_token = TensorQuantizer(
        QuantizerAttributeConfig(num_bits=(4, 3), type="dynamic", block_sizes={-1: None})
    )
    flips["fp8_per_token"] = _differing(per_token(x), fake_quant.fp8_per_token(x))
    flips["nvfp4"] = _differing(*_nvfp4(x))
    return {"flips": flips, "numbers": x.numel()}


def _modelopt(x: torch.Tensor, bits: Any, amax: float) -> torch.Tensor:  # noqa: ANN401 - int or pair
    quantizer = TensorQuantizer(QuantizerAttributeConfig(num_bits=bits, axis=None))
    quantizer.amax = torch.tensor(amax)
    return quantizer(x)


def _nvfp4(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ModelOpt's fake quantizer of this format needs CUDA; its tensor class does not."""
    scale = x.abs().max() / (6 * 448)
    packed, blocks, _ = NVFP4QTensor.quantize(x, 16, weights_scaling_factor_2=scale)
    theirs = packed.dequantize(scale=blocks, double_scale=scale, block_sizes={-1: 16})
    return theirs.float(), fake_quant.nvfp4_dynamic(x, scale)


def _differing(theirs: torch.Tensor, ours: torch.Tensor) -> int:
    return int(((theirs - ours).abs() > EQUAL * ours.abs()).sum())


if __name__ == "__main__":
    main(run)
