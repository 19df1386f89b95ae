"""Builds engines with doubles of a release's programs, and runs what they built on the CPU.

What is scored goes the way of a real engine: through the step that asks TensorRT-LLM's LLM API.
A double of that stands in its place and lets the executor of the checkpoint answer.

Engines of one checkpoint for several GPUs compute the same here, because the CPU computes it: they
are scored once. That is said of no real engine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from enginekeeper.building.engine_runner import EngineRunner, Way
from enginekeeper.building.interface import Builder, BuildRequest, BuiltEngine, RunStep
from enginekeeper.building.simulated.bundle import SimulatedBundle, load_bundle
from enginekeeper.building.simulated.runtime import SimulatedEngine, load_engine
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.orchestration.asking import (
    PROBE_STEP,
    SERVED_STEP,
    TRITON_STEP,
    backend_of,
    gpus_of,
    probe_job,
    served_job,
    triton_job,
)
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.pytorch_bundling import bundle_compilation
from enginekeeper.orchestration.stages import (
    Compilation,
    Made,
    Probe,
    Source,
    made_once,
    probing_job,
)
from enginekeeper.orchestration.timing import timing_of
from enginekeeper.orchestration.tools import DOUBLE, DOUBLE_OF_THE_API
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.specs.llm_api import Backend
from enginekeeper.specs.profiles import SIMULATED
from enginekeeper.specs.variants import Variant
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.validation.twin import write_checkpoint_twin
from registry.digests import digest_document
from registry.types import Engine

SIMULATED_STEP = "run_with_double"
"""The step that runs another one with the double in TensorRT-LLM's place."""


def simulated_compilation(bench: Bench, variant: Variant, limits: dict[str, int]) -> Compilation:
    """Returns how the double of a variant's release builds it, on the GPU it is for."""
    profile, product = variant.profile, variant.target.product
    if profile.release is None or product is None:
        raise AssertionError(f"{variant.identifier} passed the rules without a release or a GPU")
    if variant.backend == "pytorch":
        compilation = bundle_compilation(variant, limits)
        return replace(
            compilation,
            builder=_Doubled(
                compilation.builder,
                profile.release.version,
                lambda: bench.shop.python_of(profile.name).parent,
            ),
            bound={**compilation.bound, "double": bench.shop.code(DOUBLE, DOUBLE_OF_THE_API)},
        )
    return Compilation(
        TensorrtLlmBuilder(profile.release, product, profile.name, simulated=True),
        limits,
        variant.build.given,
        bound={"gpu": product.product, "double": bench.shop.code(DOUBLE)},
        timing=timing_of(bench, variant, product),
    )


@dataclass(frozen=True)
class _Doubled:
    """The builder of bundles, with the double of the PyTorch backend in its place.

    The double needs torch, which the embedded builder's toolchain has. It computes nothing: what a
    warm start leaves behind does not depend on its answers.
    """

    real: Builder
    version: str
    programs: Callable[[], Path]
    """Returns the folder of the doubles of NVIDIA's programs."""

    toolchain: ClassVar[str] = "inductor"
    compile_step: ClassVar[str] = SIMULATED_STEP

    @property
    def kind(self) -> str:
        """The name in keys and manifests."""
        return self.real.kind

    def build(self, request: BuildRequest, run: RunStep) -> BuiltEngine:
        """Builds a bundle as the real builder does, by the double."""
        told = {
            "version": self.version,
            "models": {str(request.checkpoint): None},
            "programs": str(self.programs()),
        }

        def doubled(_toolchain: str, step: str, job: Mapping[str, Any]) -> StepOutcome:
            whole = {"step": step, "job": dict(job), "double": told}
            return run(self.toolchain, self.compile_step, whole)

        return self.real.build(request, doubled)


RUNTIME = (f"{DOUBLE}/runtime.py", f"{DOUBLE}/plan_file.py", f"{DOUBLE}/bundle.py")
"""Our own code that takes the checkpoint out of an engine."""


@dataclass(frozen=True)
class SignedDirectory:
    """An engine directory whose signature was verified, and the GPU that it is for."""

    path: Path
    product: str
    release: str
    backend: Backend
    gpus: Mapping[str, Any]
    """Which simulated GPUs a step may use, and how many."""

    @classmethod
    def of(cls, engine: Engine, path: Path) -> SignedDirectory:
        """Returns an engine whose signature was verified, as it lies in a directory."""
        product, release = (str(engine.key.hard[it]) for it in ("gpu_product", "tensorrt_llm"))
        return cls(path, product, release, backend_of(engine.key), gpus_of(engine))

    @property
    def toolchain(self) -> str:
        """The toolchain of the doubles of its release."""
        return f"{SIMULATED}tensorrt-llm-{self.release}"

    def loaded(self) -> SimulatedEngine | SimulatedBundle:
        """Opens it on the simulated GPU; raises InputError for what would not run there."""
        if self.backend == "pytorch":
            return load_bundle(self.path, self.product, self.release)
        return load_engine(self.path, self.product)


def score_simulated(
    shop: Workshop,
    source: Source,
    engine: SignedDirectory,
    probe: Probe,
    name: str,
    *,
    served: bool = False,
    triton: bool = False,
    way: Way = "generation",
) -> Made:
    """Scores an engine of a double by the CPU executor of the checkpoint that is inside.

    The caller has verified its signature. Raises InputError for an engine that would not run on
    the product its key names, and for one that is not whole.
    """
    directory, version = engine.path, engine.release
    runner = EngineRunner(version, engine.backend)
    if triton:
        step, told = TRITON_STEP, triton_job(version, directory)
    elif served:
        step, told = SERVED_STEP, served_job(version, directory, source.path, engine.backend)
    else:
        step, told = runner.score_step, runner.job(directory, way)
    asked = _Asked("simulated-scores", step, told, {**probe.inputs(), "way": told["way"]})
    return _by_the_double(shop, source, engine, asked, probe.job, name=name)


def probe_simulated(
    shop: Workshop,
    source: Source,
    engine: SignedDirectory,
    probe: Probe,
    prompts: Sequence[int],
    *,
    name: str,
) -> Made:
    """Asks an engine of a double in other ways; the caller has verified its signature."""
    told = probe_job(engine.release, engine.path, engine.backend)
    inputs = {"tokens": str(probe.tokens.key), "prompts": list(prompts)}
    asked = _Asked("simulated-probes", PROBE_STEP, told, inputs)
    shared = partial(probing_job, probe, prompts)
    return _by_the_double(shop, source, engine, asked, shared, name=name)


@dataclass(frozen=True)
class _Asked:
    """A step that asks an engine: its product's kind, what it is told, what changes its product."""

    kind: str
    step: str
    told: Mapping[str, Any]
    inputs: Mapping[str, Any]


def _by_the_double(
    shop: Workshop,
    source: Source,
    engine: SignedDirectory,
    asked: _Asked,
    shared: Callable[[Path], dict[str, Any]],
    *,
    name: str,
) -> Made:
    """Runs a step with the double in TensorRT-LLM's place, and the executor of the checkpoint."""
    loaded = engine.loaded()
    inputs = {
        "arm": str(digest_document(loaded.described(), "ek-simulated-arm-v1")),
        "model": str(source.digest),
        **asked.inputs,
        "step": asked.step,
        "numerics": shop.code(*RUNTIME, DOUBLE_OF_THE_API, "configs", "validation"),
        "made_by": shop.identity("inductor", SIMULATED_STEP),
    }

    def make(directory: Path) -> dict[str, Any]:
        unpacked, twin = directory / "checkpoint", directory / "twin"
        checkpoint = loaded.unpack(unpacked)
        write_checkpoint_twin(source.path, checkpoint, twin)
        double: dict[str, Any] = {
            "version": loaded.version,
            "models": {str(engine.path): str(twin)},
        }
        told = {**shared(directory), **asked.told}
        if "caches" in told:  # they are held against the simulated GPU and its driver
            told |= engine.gpus
            double["programs"] = str(shop.python_of(engine.toolchain).parent)
        job = {"step": asked.step, "job": told, "double": double}
        outcome = shop.run("inductor", SIMULATED_STEP, job, name=name, minutes=60)
        shutil.rmtree(twin)
        shutil.rmtree(unpacked, ignore_errors=True)  # a bundle is its own checkpoint
        return {
            "seconds": outcome.seconds,
            "simulated": True,
            "caches": outcome.outputs.get("caches"),
        }

    return made_once(shop, asked.kind, inputs, make)
