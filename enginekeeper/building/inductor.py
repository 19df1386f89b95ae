"""The embedded builder: engines for this CPU, compiled ahead of time by TorchInductor.

What it makes and how it differs from TensorRT-LLM is in `docs/inductor.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from enginekeeper.building.interface import BuildRequest, BuiltEngine, CompiledGraph, RunStep

__all__ = ["InductorBuilder"]


@dataclass(frozen=True)
class InductorBuilder:
    """Builds engines that run on the CPU they were compiled on."""

    shared_graphs: Path
    """Compiled graphs without weights, shared by every engine of one shape and recipe."""

    kind: ClassVar[str] = "inductor"
    toolchain: ClassVar[str] = "inductor"
    compile_step: ClassVar[str] = "compile_engine"

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
