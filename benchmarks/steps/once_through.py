"""A benchmark's step: what reading a model and its checkpoint and dequantizing once takes in torch.

    PYTHON benchmarks/steps/once_through.py PASSES MODEL CHECKPOINT...

Runs in the modelopt toolchain, with a thread for each core that it is given, and prints for each
checkpoint the wall seconds of its fastest pass. A pass reads both sides with safetensors'
`load_file`, turns every matrix of the source into float32, and every matrix of the checkpoint:
times its scales, and times the pre-quant vector. It looks at no number.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

Tensors = dict[str, torch.Tensor]

_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
_MATRIX = 2


def dequantized(tensors: Tensors, module: str) -> torch.Tensor:
    """Returns a linear's weight in float32, before its pre-quant vector."""
    weight = tensors[f"{module}.weight"]
    per_channel = tensors.get(f"{module}.per_channel_scale")
    scales = tensors.get(f"{module}.weights_scaling_factor", per_channel)
    if scales is None:
        return weight.float()
    scales = scales.float()
    outer = tensors.get(f"{module}.weights_scaling_factor_2")
    if weight.dtype is torch.uint8 and outer is not None:  # two FP4 columns to a byte
        halves = torch.stack([weight & 0x0F, weight >> 4], dim=2).flatten(1)
        return by_groups(_E2M1[halves.int()], scales * outer)
    if weight.dtype is torch.int8 and scales.dim() == _MATRIX:  # two INT4 rows to a byte
        halves = torch.stack([(weight << 4) >> 4, weight >> 4], dim=1)
        return by_groups(halves.flatten(0, 1).float(), scales)
    return weight.float() * (scales[:, None] if scales.numel() > 1 else scales)


def by_groups(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Multiplies codes by the scales of their groups of columns."""
    return (codes.unflatten(1, (scales.shape[1], -1)) * scales[:, :, None]).flatten(1)


def once_through(model: Path, checkpoint: Path) -> None:
    """Reads both sides and turns each matrix into float32."""
    for tensor in load_file(model / "model.safetensors").values():
        tensor.float()
    for file in sorted(checkpoint.glob("rank*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            module = name.removesuffix(".weight")
            if name.endswith(".weight") and tensor.dim() == _MATRIX:
                weight = dequantized(tensors, module)
                if (prequant := tensors.get(f"{module}.prequant_scaling_factor")) is not None:
                    weight *= prequant.float()


def fastest(passes: int, model: Path, checkpoint: Path) -> float:
    """Returns the wall seconds of the fastest of some passes."""
    times = []
    for _ in range(passes):
        started = time.perf_counter()
        once_through(model, checkpoint)
        times.append(time.perf_counter() - started)
    return min(times)


def main(passes: int, model: Path, checkpoints: list[Path]) -> None:
    """Prints a line for each checkpoint."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for checkpoint in checkpoints:
        print(fastest(passes, model, checkpoint), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), [Path(one) for one in sys.argv[3:]])
