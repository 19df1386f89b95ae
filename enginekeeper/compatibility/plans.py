"""Rules about TensorRT plans: what a plan is bound to, and what loosens it.

TensorRT-LLM sets neither a hardware compatibility level nor VERSION_COMPATIBLE, so its engines
are bound to all of this. The loosened forms are told by `Portability`; no builder here makes any.
"""

from __future__ import annotations

from enginekeeper.compatibility.places import Case, HardwareLevel
from enginekeeper.compatibility.placing import Effect, PlaceRule
from enginekeeper.compatibility.rules import Finding
from enginekeeper.compatibility.versions import (
    has_minor,
    known_alike,
    major,
    older,
    readable,
    same,
)
from enginekeeper.specs.gpus import ComputeCapability
from registry.environments import CpuEnvironment, GpuEnvironment

_HARDWARE = "NvInfer.h, HardwareCompatibilityLevel"
_COMPATIBILITY = "TensorRT documentation, engine and version compatibility (10.16.1, 11.1.0)"
_CROSS_MAJOR = frozenset({(8, 10), (10, 11)})
_FIRST_PORTABLE = "8.6"
_AMPERE, _TURING = ComputeCapability(8, 0), ComputeCapability(7, 5)


def versions_compatible(built: str, runtime: str) -> bool:
    """Says whether a TensorRT loads a VERSION_COMPATIBLE plan of another."""
    if older(built, _FIRST_PORTABLE) or older(runtime, built):
        return False
    return major(built) == major(runtime) or (major(built), major(runtime)) in _CROSS_MAJOR


def capability(text: object) -> ComputeCapability | None:
    """Reads a compute capability; None for what is none."""
    if not isinstance(text, str) or not readable(text) or text.count(".") != 1:
        return None
    return ComputeCapability.parse(text)


def _hardware_moves(case: Case, environment: GpuEnvironment) -> bool:
    """Says whether the plan's hardware level lets it run on the place's GPU."""
    built = capability(case.key.hard.get("compute_capability"))
    offered = capability(environment.compute_capability)
    if built is None or offered is None:
        return False
    if case.portability.hardware is HardwareLevel.AMPERE_PLUS:
        return min(built, offered) >= _AMPERE
    same_level = case.portability.hardware is HardwareLevel.SAME_COMPUTE_CAPABILITY
    return same_level and built == offered >= _TURING


def _bound(case: Case, name: str, offered: str | None, *, movable: bool) -> Finding | None:
    """Finds a difference in one field of the GPU, unless the plan was built to move."""
    environment = case.place.environment
    if isinstance(environment, CpuEnvironment) or "gpu_product" not in case.key.hard:
        return None
    built = case.key.hard.get(name)
    if built == offered or (movable and _hardware_moves(case, environment)):
        return None
    return Finding(actual=f"{name} {offered}", expected=f"{name} {built}")


def _on_gpu(case: Case) -> GpuEnvironment | None:
    environment = case.place.environment
    return environment if isinstance(environment, GpuEnvironment) else None


def _capability(case: Case) -> Finding | None:
    gpu = _on_gpu(case)
    offered = None if gpu is None else gpu.compute_capability
    return _bound(case, "compute_capability", offered, movable=True)


def _product(case: Case) -> Finding | None:
    gpu = _on_gpu(case)
    return _bound(case, "gpu_product", None if gpu is None else gpu.product, movable=True)


def _mig(case: Case) -> Finding | None:
    gpu = _on_gpu(case)
    return _bound(case, "mig_profile", None if gpu is None else gpu.mig_profile, movable=False)


def _cuda_runtime(case: Case) -> Finding | None:
    gpu, built = _on_gpu(case), case.key.hard.get("cuda_runtime")
    if gpu is None:
        return None
    if readable(built) and readable(gpu.cuda_runtime):
        built_with, offered = str(built), gpu.cuda_runtime
        # of a version without a minor only the major can be told from another
        told = has_minor(built_with) and has_minor(offered)
        if same(built_with, offered) if told else major(built_with) == major(offered):
            return None
    return _bound(case, "cuda_runtime", gpu.cuda_runtime, movable=False)


def _moved(case: Case) -> Finding | None:
    gpu = _on_gpu(case)
    if gpu is None or "gpu_product" not in case.key.hard or not _hardware_moves(case, gpu):
        return None
    built = case.key.hard["gpu_product"]
    if built == gpu.product:
        return None
    level = case.portability.hardware
    return Finding(actual=f"{gpu.product}, level {level}", expected=f"{built}, where it was built")


def _tensorrt(case: Case) -> Finding | None:
    built, offered = case.key.hard.get("tensorrt"), case.place.tensorrt
    if _on_gpu(case) is None or built == offered or offered is None:
        return None
    if readable(built) and readable(offered):
        moves = case.portability.versions and versions_compatible(str(built), offered)
        if moves or known_alike(built, offered):
            return None
    return Finding(actual=f"TensorRT {offered}", expected=f"TensorRT {built}")


def _newer_tensorrt(case: Case) -> Finding | None:
    built, offered = case.key.hard.get("tensorrt"), case.place.tensorrt
    if offered is None or not (case.portability.versions and readable(built) and readable(offered)):
        return None
    if known_alike(built, offered) or not versions_compatible(str(built), offered):
        return None
    return Finding(actual=f"TensorRT {offered}", expected=f"TensorRT {built}, or slower")


def _tensorrt_llm(case: Case) -> Finding | None:
    built, offered = case.key.hard.get("tensorrt_llm"), case.place.tensorrt_llm
    if _on_gpu(case) is None or built == offered:
        return None
    return Finding(actual=f"TensorRT-LLM {offered}", expected=f"TensorRT-LLM {built}")


PLAN_RULES = (
    PlaceRule(
        identifier="compute-capability",
        statement="A plan runs on the compute capability it was built on, unless built to move.",
        source=f"{_HARDWARE}; the runtime's own words: generated on an incompatible device",
        effect=Effect.REBUILD,
        predicate=_capability,
    ),
    PlaceRule(
        identifier="gpu-product",
        statement="A plan is promised to run on the GPU product it was built on only.",
        source=f"{_HARDWARE}; TensorRT warns on another device of the same capability",
        effect=Effect.REBUILD,
        predicate=_product,
    ),
    PlaceRule(
        identifier="mig-profile",
        statement="A plan is built for the slice of a GPU that it runs on.",
        source="tactics and memory limits are those of the device the builder saw",
        effect=Effect.REBUILD,
        predicate=_mig,
    ),
    PlaceRule(
        identifier="cuda-runtime",
        statement="An engine runs with the CUDA runtime of the toolchain that built it.",
        source="the engine key's hard layer (ADR 2): a container is changed as a whole",
        effect=Effect.REBUILD,
        predicate=_cuda_runtime,
    ),
    PlaceRule(
        identifier="hardware-compatible-plan",
        statement="A plan that was built to move runs elsewhere with fewer tactics, and slower.",
        source=f"{_HARDWARE}: kAMPERE_PLUS, kSAME_COMPUTE_CAPABILITY",
        effect=Effect.NOTE,
        predicate=_moved,
        loosened=True,
    ),
    PlaceRule(
        identifier="tensorrt-version",
        statement="A plan loads in exactly the TensorRT that built it, by all numbers known.",
        source=f"{_COMPATIBILITY}; only 8 to 10 and 10 to 11 across majors, never to an older",
        effect=Effect.REBUILD,
        predicate=_tensorrt,
        needs=("tensorrt",),
    ),
    PlaceRule(
        identifier="version-compatible-plan",
        statement="A VERSION_COMPATIBLE plan loads in a newer TensorRT, and may be slower.",
        source=_COMPATIBILITY,
        effect=Effect.NOTE,
        predicate=_newer_tensorrt,
        needs=("tensorrt",),
        loosened=True,
    ),
    PlaceRule(
        identifier="tensorrt-llm-version",
        statement="An engine directory loads in the TensorRT-LLM that wrote it.",
        source="NVIDIA/TensorRT-LLM issue 1038: the usual cause of a plan that does not load",
        effect=Effect.REBUILD,
        predicate=_tensorrt_llm,
        needs=("tensorrt_llm",),
    ),
)
