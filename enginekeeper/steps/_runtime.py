"""Caches of the PyTorch backend: what they are bound to, and how a step runs with its own copy."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from _step import Refusal
from _trtllm import find_devices

PACKAGES = ("tensorrt_llm", "torch", "triton", "flashinfer-python", "deep_gemm", "transformers")


def lead_caches(job: dict[str, Any]) -> str | None:
    """Runs this process with a copy of a bundle's caches, if they are bound to what is here.

    Job: `{"caches": {"folder", "key", "variables": {variable: place}}, "gpu", "ranks"}`; the caller
    has verified the folder. Returns `used`, or why not; None where the job has none. It is called
    before anything is imported that reads the variables; caches that are not used leave them
    leading to an empty folder, so that nothing of another run is loaded.
    """
    told = job.get("caches")
    if told is None:
        return None
    place = Path("caches").absolute()
    for variable, name in told["variables"].items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(place / name)
    here, bound = _flat(key_of(find_devices(job["gpu"], int(job["ranks"]))[0])), _flat(told["key"])
    names = sorted(here.keys() | bound.keys())
    if differing := [name for name in names if here.get(name) != bound.get(name)]:
        said = "; ".join(f"{name}: {bound.get(name)}, here {here.get(name)}" for name in differing)
        print(f"caches: refused: {said}", flush=True)
        return f"refused: {said}"
    shutil.copytree(told["folder"], place, dirs_exist_ok=True)
    return "used"


def _flat(key: dict[str, Any]) -> dict[str, str]:
    packages = {f"package {name}": version for name, version in key["packages"].items()}
    return {**{name: value for name, value in key.items() if name != "packages"}, **packages}


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
