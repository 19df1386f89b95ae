"""What builder, toolchain, driver and target can do with each other."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from enginekeeper.compatibility.cuda import cuda_table, driver_floor
from enginekeeper.compatibility.drivers import RUNS_CUDA, below_floor
from enginekeeper.compatibility.facts import Facts, TargetFacts
from enginekeeper.compatibility.rules import Finding, Rule, Severity
from enginekeeper.compatibility.versions import major
from enginekeeper.specs.fallback import served_by_vllm_alone
from enginekeeper.specs.form import did_you_mean
from enginekeeper.specs.profiles import BuilderKind
from enginekeeper.specs.recipes import RecipeName
from enginekeeper.specs.releases import newest_stable_with_engines

if TYPE_CHECKING:
    from enginekeeper.specs.profiles import ToolchainProfile
    from enginekeeper.specs.variants import Variant


ARCHITECTURE = "architecture-known-to-builder"
"""The rule that a fallback is for."""


def _builder_target(variant: Variant, facts: TargetFacts) -> Finding | None:
    for_cpu = facts.toolchain.builder is BuilderKind.INDUCTOR
    if for_cpu == (facts.gpu is None):
        return None
    wanted = newest_stable_with_engines().name if for_cpu else "inductor"
    return Finding(
        actual=f"{facts.toolchain.name} for {variant.target.gpu}",
        expected="target cpu" if for_cpu else "a GPU target",
        remedy=f"set toolchain: {wanted}",
    )


def _cpu_is_one(variant: Variant, facts: TargetFacts) -> Finding | None:
    parallel = variant.parallel
    if facts.gpu is not None or parallel.tensor == parallel.pipeline == 1:
        return None
    return Finding(
        actual=f"tensor {parallel.tensor}, pipeline {parallel.pipeline}",
        expected="tensor 1, pipeline 1",
    )


def _nvfp4_on_cpu(variant: Variant, facts: TargetFacts) -> Finding | None:
    if facts.gpu is not None or variant.recipe.recipe is not RecipeName.NVFP4:
        return None
    return Finding(
        actual="nvfp4 on the CPU",
        expected="a Blackwell GPU to score it on",
        remedy="the checkpoint is made and audited; score it on a GPU host",
    )


def _architecture(_variant: Variant, facts: Facts) -> Finding | None:
    return unknown_architecture(facts.model.architecture, facts.toolchain)


def unknown_architecture(name: str, toolchain: ToolchainProfile) -> Finding | None:
    """Returns why a toolchain builds nothing of an architecture, if it does not."""
    known = toolchain.architectures
    if name in known:
        return None
    if toolchain.release is not None and not known and not served_by_vllm_alone(name):
        return None  # it builds no engines at all: a rule of its own says so
    return Finding(
        actual=f"{name} under {toolchain.name}",
        expected=f"one of its {len(known)} architectures",
        remedy=_instead(name, known),
    )


def _instead(architecture: str, known: Collection[str]) -> str:
    if served_by_vllm_alone(architecture):
        return "set fallback: vllm, and a vLLM serving bundle stands in: only vLLM serves it"
    return did_you_mean(architecture, sorted(known)) or "serve this model with vLLM meanwhile"


def _capability(variant: Variant, facts: TargetFacts) -> Finding | None:
    known = facts.toolchain.compute_capabilities
    if facts.gpu is None or not known or facts.gpu.compute_capability in known:
        return None
    return Finding(
        actual=f"{variant.target.gpu}, {facts.gpu.compute_capability}",
        expected=f"one of {', '.join(map(str, sorted(known)))} under {facts.toolchain.name}",
        remedy="use a newer toolchain" if facts.gpu.compute_capability > max(known) else None,
    )


def _driver(variant: Variant, facts: TargetFacts) -> Finding | None:
    driver, cuda = variant.target.driver, facts.toolchain.cuda
    if driver is None or cuda is None or not below_floor(driver, cuda):
        return None
    return Finding(
        actual=f"driver {driver}",
        expected=f"R{driver_floor(cuda)} or newer for {facts.toolchain.name} (CUDA {cuda})",
        remedy="update the driver, or use a toolchain with an older CUDA",
    )


def _cuda(variant: Variant, facts: TargetFacts) -> Finding | None:
    wanted, has = variant.target.cuda, facts.toolchain.cuda
    if wanted is None or has is None or major(wanted) == major(has):
        return None
    return Finding(
        actual=f"{facts.toolchain.name} has CUDA {has}",
        expected=f"CUDA {wanted}",
        remedy=f"use a toolchain with CUDA {major(wanted)}",
    )


PLATFORM_RULES = (
    Rule(
        identifier="builder-fits-target",
        statement="inductor builds for the CPU, tensorrt_llm for GPUs.",
        source="what the builders are",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_builder_target,
    ),
    Rule(
        identifier="cpu-is-one-rank",
        statement="On the CPU an engine is one rank.",
        source="the inductor builder compiles for the one processor of the machine",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_cpu_is_one,
    ),
    Rule(
        identifier="nvfp4-not-scored-on-cpu",
        statement="On the CPU an NVFP4 checkpoint can be made, but not run.",
        source="measured: ModelOpt 0.47.0 exports it on the CPU; its emulation needs CUDA",
        severity=Severity.EXPORT_ONLY,
        needs=TargetFacts,
        predicate=_nvfp4_on_cpu,
    ),
    Rule(
        identifier=ARCHITECTURE,
        statement="A builder makes engines of the architectures it has a definition for.",
        source="tensorrt_llm/models/__init__.py (02267d3d), MODEL_MAP; inductor: its own list",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_architecture,
        fact="architectures",
    ),
    Rule(
        identifier="toolchain-knows-gpu",
        statement="A release has kernels for the compute capabilities it was compiled for.",
        source="TensorRT-LLM release notes: 10.0 from 0.17, 12.1 from 1.0, 10.3 from 1.1",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_capability,
        fact="compute_capabilities",
    ),
    Rule(
        identifier="driver-runs-cuda",
        statement=RUNS_CUDA,
        source=cuda_table().sources["floors"],
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_driver,
        fact="cuda",
    ),
    Rule(
        identifier="cuda-major-is-the-toolchains",
        statement="An engine runs with the CUDA major version of the toolchain that built it.",
        source="docs.nvidia.com/deploy/cuda-compatibility: compatibility is within one major",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_cuda,
        fact="cuda",
    ),
)
