"""The embedded builder: engines for this CPU, compiled ahead of time by TorchInductor.

What it makes and how it differs from TensorRT-LLM is in `docs/inductor.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from enginekeeper.building.interface import (
    BuildRequest,
    BuiltEngine,
    CompiledGraph,
    RunStep,
    Unsupported,
    VariantFacts,
)

__all__ = ["InductorBuilder"]

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Decoders that the step's own layer computes; its `FAMILIES` must say the same."""

KV_CACHES = ("auto", "fp8", "int8")


@dataclass(frozen=True)
class InductorBuilder:
    """Builds engines that run on the CPU they were compiled on."""

    shared_graphs: Path
    """Compiled graphs without weights, shared by every engine of one shape and recipe."""

    kind: ClassVar[str] = "inductor"
    toolchain: ClassVar[str] = "inductor"
    compile_step: ClassVar[str] = "compile_engine"
    scoring_step: ClassVar[str] = "score_engine"

    def unsupported(self, facts: VariantFacts) -> Unsupported | None:
        """Returns the first fact that rules a variant out."""
        single = "1: the embedded builder runs one rank"
        ruled_out = (
            ("target", facts.target, facts.target == "cpu", "cpu"),
            (
                "architecture",
                facts.architecture,
                facts.architecture in ARCHITECTURES,
                f"one of {', '.join(ARCHITECTURES)}",
            ),
            ("kv_cache", facts.kv_cache, facts.kv_cache in KV_CACHES, ", ".join(KV_CACHES)),
            ("tensor_parallel", facts.tensor_parallel, facts.tensor_parallel == 1, single),
            ("pipeline_parallel", facts.pipeline_parallel, facts.pipeline_parallel == 1, single),
        )
        for field, actual, holds, expected in ruled_out:
            if not holds:
                return Unsupported(field, actual, expected)
        return None

    def key_fields(self, environment: Mapping[str, Any]) -> Mapping[str, Any]:
        """Binds an engine to torch and to the instruction set the code was generated for."""
        return {
            "builder": self.kind,
            "torch": environment["torch"],
            "instruction_set": list(environment["instruction_set"]),
        }

    def job(self, request: BuildRequest) -> dict[str, Any]:
        """Returns the job of the compile step."""
        return {
            "checkpoint": str(request.checkpoint),
            "output": str(request.output),
            "graphs": str(self.shared_graphs),
            "limits": dict(request.limits),
        }

    def build(self, request: BuildRequest, run: RunStep) -> BuiltEngine:
        """Compiles what no earlier engine has compiled, and assembles the engine directory."""
        outcome = run(self.toolchain, self.compile_step, self.job(request))
        return BuiltEngine(
            directory=request.output,
            seconds=outcome.seconds,
            description=outcome.outputs["engine"],
            graphs=tuple(_graph(row) for row in outcome.outputs["graphs"]),
            versions=outcome.versions,
        )


def _graph(row: Mapping[str, Any]) -> CompiledGraph:
    return CompiledGraph(
        signature=row["signature"],
        entry=row["entry"],
        seconds=row["seconds"],
        reused=row["reused"],
        size=row["bytes"],
    )
