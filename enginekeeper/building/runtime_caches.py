"""Caches of the PyTorch backend: what warming up compiles and tunes, so that a node need not.

Rules:

- they are code: shared objects, kernels, pickles. They are part of a signed artifact, and whoever
  restores them has verified it;
- they are of one GPU product, driver, CUDA and set of packages: with any other they are refused.
  TensorRT-LLM does not look: loading an autotuner's file takes over the device that it names
  (`_deserialize_metadata` of its autotuner.py, as a third party read it);
- ranks of one model share them: one file of tactics has a part for each (`rank_0`, …), and the
  directories are keyed by content. How many ranks there were is in the bundle's own options;
- a process writes into its caches, so it gets a copy; the artifact stays as it was signed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError

__all__ = [
    "CACHES", "DESCRIPTION", "TUNED", "CacheKey", "bound_to", "caches_job", "environment_of",
    "restore_caches",
]  # fmt: skip

DESCRIPTION = "warmup.json"
"""In a bundle: which caches there are and what they are bound to."""

FOLDER = "caches"

CACHES: Mapping[str, tuple[str, str]] = {
    "autotuner": ("TLLM_AUTOTUNER_CACHE_PATH", "autotuner/cache.json"),
    "deep_gemm": ("TRTLLM_DG_CACHE_DIR", "deep_gemm"),
    "triton": ("TRITON_CACHE_DIR", "triton"),
    "flashinfer": ("FLASHINFER_WORKSPACE_BASE", "flashinfer"),
    "torch_compile": ("TORCHINDUCTOR_CACHE_DIR", "torch_compile"),
}
"""By name: the variable that says where it lies, and its place below the folder.

The first is a file, the others are directories. Variables as read in TensorRT-LLM's model engine
and DeepGEMM's compiler.cuh, Triton's, FlashInfer's and PyTorch's documentation.
"""


TUNED = "autotuner"
"""The cache whose one file has a part for every rank; the others are shared by them."""


@dataclass(frozen=True)
class CacheKey:
    """What caches are bound to."""

    gpu_product: str
    compute_capability: str
    driver: str
    cuda: str
    packages: Mapping[str, str]

    def differences(self, other: CacheKey) -> tuple[str, ...]:
        """Returns in words every field in which another key differs."""
        mine, theirs = self._flat(), other._flat()
        return tuple(
            f"{name}: {mine.get(name)}, here {theirs.get(name)}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        )

    def _flat(self) -> dict[str, str]:
        own = {
            "gpu_product": self.gpu_product,
            "compute_capability": self.compute_capability,
            "driver": self.driver,
            "cuda": self.cuda,
        }
        return {**own, **{f"package {name}": it for name, it in self.packages.items()}}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str) -> CacheKey:
        """Reads a key; raises InputError for one that is not whole."""
        names = ("gpu_product", "compute_capability", "driver", "cuda")
        packages = document.get("packages")
        plain = {name: document.get(name) for name in names}
        if not all(isinstance(one, str) for one in plain.values()) or not isinstance(
            packages, dict
        ):
            raise InputError(
                "the caches do not say what they are bound to",
                where=where,
                actual=sorted(document),
                expected=", ".join((*names, "packages")),
            )
        return cls(
            **{name: str(one) for name, one in plain.items()},
            packages={str(one): str(it) for one, it in packages.items()},
        )


def bound_to(bundle: Path) -> CacheKey:
    """Returns what a bundle's caches are bound to; raises InputError where it does not say."""
    path = bundle / DESCRIPTION
    key = read_json_object(path).get("key")
    return CacheKey.from_dict(key if isinstance(key, dict) else {}, str(path))


def caches_job(bundle: Path) -> dict[str, Any]:
    """Returns what a step is told, so that it runs with a copy of a verified bundle's caches."""
    return {
        "folder": str(bundle / FOLDER),
        "key": asdict(bound_to(bundle)),
        "variables": dict(CACHES.values()),
    }


def environment_of(folder: Path) -> dict[str, str]:
    """Returns the variables that lead every cache into a folder."""
    return {variable: str(folder / place) for variable, place in CACHES.values()}


def restore_caches(bundle: Path, here: CacheKey, place: Path) -> dict[str, str]:
    """Copies the caches of a verified bundle to a place of this process, and returns its variables.

    Raises InputError where they are bound to anything else than what is here, and for a place that
    is taken: nothing is copied then.
    """
    if differing := bound_to(bundle).differences(here):
        raise InputError(
            "the caches are not of this node's GPU, driver and packages",
            where=str(bundle / DESCRIPTION),
            actual="; ".join(differing),
            remedy="start without them (it takes longer), or build a bundle for this node",
        )
    if place.exists():
        raise InputError("there is something already", where=str(place), expected="a new directory")
    draft = place.with_name(f".{place.name}.restoring")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(bundle / FOLDER, draft)
    draft.replace(place)
    return environment_of(place)
