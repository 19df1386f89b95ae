"""Toolchain profiles: what each release that builds engines needs and can do.

The table is `data/toolchains.json`, with the source of each column. A profile says what is true
of a release; it does not say that the release is installed anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.specs.gpus import ComputeCapability

_TABLE = Path(__file__).with_name("data") / "toolchains.json"


class BuilderKind(StrEnum):
    """What turns a checkpoint into an engine."""

    INDUCTOR = "inductor"
    """TorchInductor, ahead of time, for the CPU of this machine."""

    TENSORRT_LLM = "tensorrt_llm"
    """`trtllm-build`, for one GPU product."""


@dataclass(frozen=True)
class ToolchainProfile:
    """One release of a builder; the fields about CUDA are empty for a builder without it."""

    name: str
    """What a spec calls it: `inductor`, `tensorrt-llm-1.2.1`."""

    builder: BuilderKind
    architectures: frozenset[str]
    """Hugging Face architecture names the builder has a model definition for."""

    tensorrt: str | None = None
    cuda: str | None = None
    """CUDA runtime, `major.minor`, or `major` where only that is known."""

    driver_minimum: str | None = None
    """Oldest NVIDIA driver that can run this CUDA major at all."""

    compute_capabilities: frozenset[ComputeCapability] = frozenset()
    """Compute capabilities the release has kernels for."""


@cache
def toolchain_profiles() -> dict[str, ToolchainProfile]:
    """Returns the table by name, in its own order."""
    table = read_json_object(_TABLE)
    sets = table["architecture_sets"]
    return {row["name"]: _profile(row, sets) for row in table["toolchains"]}


def _profile(row: dict[str, Any], sets: dict[str, list[str]]) -> ToolchainProfile:
    capabilities = row.get("compute_capabilities", ())
    return ToolchainProfile(
        name=row["name"],
        builder=BuilderKind(row["builder"]),
        architectures=frozenset(name for key in row["architecture_sets"] for name in sets[key]),
        tensorrt=row.get("tensorrt"),
        cuda=row.get("cuda"),
        driver_minimum=row.get("driver_minimum"),
        compute_capabilities=frozenset(ComputeCapability.parse(text) for text in capabilities),
    )
