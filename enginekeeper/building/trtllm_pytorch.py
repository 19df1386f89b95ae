"""The builder of bundles for TensorRT-LLM's PyTorch backend: checkpoint, options and warm caches.

There is nothing to compile ahead of time but what a warm start compiles and tunes. So a bundle is a
checkpoint in Hugging Face's format, quantized or the model as it is, the file of its LLM-API
options, and the caches that warming up on the GPU left behind, bound to what they were made with
(`runtime_caches.py`).

Written against the documented interface and proved against doubles of it; **it has not run on a
GPU**.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from enginekeeper.building.bundle import OPTIONS, options_of
from enginekeeper.building.interface import BuildRequest, BuiltEngine, RunStep
from enginekeeper.building.runtime_caches import CACHES, DESCRIPTION, TUNED, bound_to
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.specs.gpus import GpuProduct
from enginekeeper.specs.llm_api import interface_of
from enginekeeper.specs.llm_options import LlmOptions, llm_arguments, llm_file
from enginekeeper.specs.releases import Release

__all__ = ["TrtllmPytorchBuilder"]

QUANTIZATION = "hf_quant_config.json"


@dataclass(frozen=True)
class TrtllmPytorchBuilder:
    """Builds bundles of one release for one GPU product."""

    release: Release
    gpu: GpuProduct
    toolchain: str
    options: LlmOptions = field(default_factory=LlmOptions)
    tensor_parallel: int = 1
    quantized: bool = True
    """Whether ModelOpt quantized the checkpoint; else it is the model as it is."""

    simulated: bool = False
    """Whether a double is expected: a bundle that says otherwise of itself is refused."""

    compile_step: ClassVar[str] = "warm_pytorch"

    @property
    def kind(self) -> str:
        """Tells bundles of doubles from real ones."""
        return "simulated_pytorch" if self.simulated else "trtllm_pytorch"

    def job(self, request: BuildRequest) -> dict[str, Any]:
        """Returns the job of the step; raises InputError for what the release cannot be asked."""
        version = self.release.version
        arguments = self._arguments(request)
        interface = interface_of(version, "pytorch")
        told = {
            **arguments,
            "model": str(request.checkpoint),
            "skip_tokenizer_init": True,
        }
        return {
            "checkpoint": str(request.checkpoint),
            "output": str(request.output),
            "version": version,
            "api": {"module": interface.module, "version": version, "arguments": told},
            "file": llm_file(arguments),
            "caches": {name: list(one) for name, one in CACHES.items()},
            "gpu": {
                "product": self.gpu.product,
                "compute_capability": str(self.gpu.compute_capability),
            },
            "ranks": self.tensor_parallel,
            "quantized": self.quantized,
        }

    def build(self, request: BuildRequest, run: RunStep) -> BuiltEngine:
        """Builds a bundle and looks at what was built.

        Raises a StepError when the step refuses or fails, InputError for a bundle that is not the
        one asked for: of another GPU, with other options, simulated where a real one is expected,
        or the other way round.
        """
        outcome = run(self.toolchain, self.compile_step, self.job(request))
        document = read_json_object(request.output / DESCRIPTION)
        self._require_asked(request, document)
        quantization = self._quantization(request.output)
        return BuiltEngine(
            directory=request.output,
            seconds=outcome.seconds,
            description=outcome.outputs,
            graphs=(),
            versions=outcome.versions,
            report=_report(document, quantization, self.tensor_parallel),
            simulated=self.simulated,
        )

    def _quantization(self, bundle: Path) -> object:
        """Returns what the bundle's checkpoint says of how it was quantized; None: it was not."""
        if not self.quantized:
            return None
        return read_json_object(bundle / QUANTIZATION).get("quantization")

    def _require_asked(self, request: BuildRequest, document: Mapping[str, Any]) -> None:
        """Raises InputError for a bundle that is not the one asked for."""
        path, options = request.output / DESCRIPTION, request.output / OPTIONS
        simulated = document.get("simulated") is True
        if simulated is not self.simulated:
            raise InputError(
                "the bundle and its toolchain do not agree on whether it is simulated",
                where=str(path),
                actual=f"simulated: {simulated}",
                expected=f"simulated: {self.simulated}, under {self.toolchain}",
            )
        asked, found = self._arguments(request), options_of(request.output, self.release.version)
        if found != asked:
            raise InputError(
                "the bundle has other options than were asked for",
                where=str(options),
                actual=found,
                expected=asked,
            )
        product = bound_to(request.output).gpu_product
        if product != self.gpu.product:
            raise InputError(
                "the caches are of another GPU than the bundle is for",
                where=str(path),
                actual=product,
                expected=self.gpu.product,
            )

    def _arguments(self, request: BuildRequest) -> dict[str, Any]:
        version = self.release.version
        return llm_arguments(version, self.options, request.limits, self.tensor_parallel)


def _report(document: Mapping[str, Any], quantization: object, ranks: int) -> dict[str, Any]:
    caches: dict[str, Any] = document.get("caches") or {}
    empty = sorted(name for name, held in caches.items() if not held["files"])
    warnings = [f"warming up left nothing in the cache {name}" for name in empty]
    tuned = (caches.get(TUNED) or {}).get("ranks")
    if tuned is not None and (missing := sorted(set(range(ranks)) - set(tuned))):
        named = ", ".join(map(str, missing))
        warnings.append(f"the cache {TUNED} has nothing of rank {named}: it is tuned at each start")
    return {"caches": caches, "quantization": quantization, "warnings": warnings}
