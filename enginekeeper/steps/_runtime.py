"""What caches of the PyTorch backend are bound to: the GPU, its driver, CUDA and the packages."""

from __future__ import annotations

import importlib.metadata
import subprocess
from typing import Any

from _step import Refusal

PACKAGES = ("tensorrt_llm", "torch", "triton", "flashinfer-python", "deep_gemm", "transformers")


def key_of(device: dict[str, str]) -> dict[str, Any]:
    """Returns what caches that are made here are bound to."""
    import torch  # noqa: PLC0415 - seconds to import

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "gpu_product": device["product"],
        "compute_capability": device["compute_capability"],
        "driver": _driver(),
        "cuda": str(torch.version.cuda),
        "packages": packages,
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout.split()
    if done.returncode != 0 or not said:
        raise Refusal("driver-silent", "the NVIDIA driver does not say its version")
    return said[0]
