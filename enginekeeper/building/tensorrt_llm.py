"""The TensorRT-LLM builder: engines for one GPU product, made by `trtllm-build`.

Written against the documented tool and proved against doubles of it; **it has not run on a GPU**.
What runs its engines is in `engine_runner.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from enginekeeper.building.engine_directory import EngineReport, Expected, inspect_engine
from enginekeeper.building.host_memory import (
    HostMemory,
    MemoryNeed,
    check_host_memory,
    read_host_memory,
)
from enginekeeper.building.interface import BuildRequest, BuiltEngine, RunStep
from enginekeeper.building.trtllm_command import arguments
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.specs.build_flags import FlagValue
from enginekeeper.specs.gpus import GpuProduct
from enginekeeper.specs.releases import Release, releases_with_engines
from enginekeeper.toolchains.results import StepOutcome

__all__ = ["TensorrtLlmBuilder"]

progress = logging.getLogger("enginekeeper.progress")


@dataclass(frozen=True)
class TensorrtLlmBuilder:
    """Builds engines of one release for one GPU product."""

    release: Release
    gpu: GpuProduct
    toolchain: str
    """The release's own, or the one that doubles it."""

    simulated: bool = False
    """Whether doubles are expected: an engine that says otherwise of itself is refused."""

    host_memory: Callable[[], HostMemory] | None = read_host_memory
    """Asked before a real build; a double takes none. None where builds run on another host."""

    timing_options: ClassVar[Mapping[str, FlagValue]] = {
        "input_timing_cache": "model.cache",
        "output_timing_cache": "model.cache",
    }
    """Always the same, relative to where the tool runs: both are kept in the engine's config.json,
    and a path that is another one in each build would be another engine. Without a cache to start
    with there is no such file, which the tool says and passes over. The ranks of one build find
    what the first of them measured."""

    compile_step: ClassVar[str] = "build_trtllm"
    refit_step: ClassVar[str] = "refit_trtllm"

    @property
    def kind(self) -> str:
        """Tells engines of doubles from real ones."""
        return "simulated" if self.simulated else "tensorrt_llm"

    def requested(self, request: BuildRequest) -> dict[str, FlagValue]:
        """Returns what is asked of the tool: the limits, and the options of the spec."""
        return {**request.limits, **request.options}

    def job(self, request: BuildRequest, workers: int = 1) -> dict[str, Any]:
        """Returns the job of the step; raises InputError for what the release cannot be asked."""
        if not self.release.builds_engines:
            raise InputError(
                f"{self.release.name} has no trtllm-build", expected=releases_with_engines()
            )
        asked = {**self.requested(request), **self.timing_options}
        timing = request.timing
        return {
            "checkpoint": str(request.checkpoint),
            "output": str(request.output),
            "version": self.release.version,
            "arguments": list(arguments(self.release.version, asked)),
            "gpu": self._gpu_asked(),
            "workers": workers,
            "timing_cache": None
            if timing is None
            else {"start": timing.start and str(timing.start), "end": str(timing.end)},
        }

    def _gpu_asked(self) -> dict[str, str]:
        return {
            "product": self.gpu.product,
            "compute_capability": str(self.gpu.compute_capability),
        }

    def build(self, request: BuildRequest, run: RunStep) -> BuiltEngine:
        """Builds an engine and looks at what was built.

        Raises UnavailableError where the host's memory cannot do, a StepError when the step refuses
        or fails, InputError for an engine that is not the one asked for, or that is simulated where
        a real one is expected, or the other way round.
        """
        need = self._memory_need(request)
        workers = 1 if need is None else need.workers
        outcome = run(self.toolchain, self.compile_step, self.job(request, workers))
        tensorrt = self.release.facts.tensorrt
        expected = Expected(
            version=self.release.version,
            tensorrt=tensorrt.value if tensorrt.verified else None,
            requested=self.requested(request),
        )
        report = inspect_engine(request.output, request.checkpoint, expected)
        self._require_world(report, request)
        return BuiltEngine(
            directory=request.output,
            seconds=outcome.seconds,
            description={**outcome.outputs, "inspection": asdict(report)},
            report={
                **asdict(report),
                "peak_memory": outcome.outputs["peak_memory"],
                "timing_cache": outcome.outputs["timing_cache"],
                **({} if need is None else {"host_memory": need.as_dict()}),
            },
            graphs=(),
            versions=outcome.versions,
            simulated=report.simulated,
        )

    def _memory_need(self, request: BuildRequest) -> MemoryNeed | None:
        if self.simulated:
            return None
        if self.host_memory is None:
            progress.info("the memory of the host that builds is not known here")
            return None
        need = check_host_memory(request.checkpoint, self.host_memory())
        if need.is_tight:
            progress.info("warning: %s", need)
        return need

    def refit(self, plan: Path, weights: Path, output: Path, run: RunStep) -> StepOutcome:
        """Puts the weights of a checkpoint into a stripped engine, and looks at what came of it.

        The tool takes any weights whose names fit; that they are the right ones is for the caller
        to see to. Raises a StepError when the step refuses or fails, InputError for an engine that
        is not the one of this checkpoint, or says anything else than the one without weights.
        """
        job = {
            "engine": str(plan),
            "checkpoint": str(weights),
            "output": str(output),
            "version": self.release.version,
            "gpu": self._gpu_asked(),
        }
        outcome = run(self.toolchain, self.refit_step, job)
        own = read_json_object(plan / "config.json")
        if read_json_object(output / "config.json") != own:
            raise InputError(
                "the refitted engine's config.json is not that of the engine without weights",
                where=str(output / "config.json"),
                expected=str(plan / "config.json"),
                remedy=f"see what trtllm-refit is in the toolchain {self.toolchain}",
            )
        # a build may have been asked for logits in another format than its checkpoint's
        model = own.get("pretrained_config")
        logits = model.get("logits_dtype") if isinstance(model, dict) else None
        asked = {"logits_dtype": logits} if isinstance(logits, str) else {}
        inspect_engine(output, weights, Expected(self.release.version, None, asked))
        return outcome

    def _require_world(self, report: EngineReport, request: BuildRequest) -> None:
        if report.simulated is not self.simulated:
            raise InputError(
                "the engine and its toolchain do not agree on whether it is simulated",
                where=str(request.output),
                actual=f"simulated: {report.simulated}",
                expected=f"simulated: {self.simulated}, under {self.toolchain}",
                remedy=f"see what trtllm-build is in the toolchain {self.toolchain}",
            )
