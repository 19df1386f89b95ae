"""The validation twin of a TensorRT engine: built with context logits, scored by whole prompts.

It is another plan than the one that is shipped: what is found of it supports a verdict and decides
nothing. It is built and scored on this machine, and never published.
"""

from __future__ import annotations

from dataclasses import replace

from enginekeeper.building.engine_runner import EngineRunner
from enginekeeper.orchestration import stages
from enginekeeper.orchestration.asking import gpus_of
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.pipeline import Progress, Work, compilation_of, source_of, there
from enginekeeper.orchestration.simulation import SignedDirectory, score_simulated
from enginekeeper.orchestration.stages import Made, Probe, Runner
from registry.errors import IntegrityError
from registry.manifests import Manifest

LOGITS = "gather_context_logits"


def score_validation_twin(bench: Bench, work: Work, made: Progress, probe: Probe) -> Made:
    """Builds the twin of an engine, once, and scores it by its context logits.

    Raises IntegrityError for a twin that was changed since it was built.
    """
    variant, engine, shop = made.variant, there(made.engine), bench.shop
    asked = compilation_of(bench, variant)
    options = {name: value for name, value in asked.options.items() if name != "strip_plan"}
    compilation = replace(asked, options={**options, LOGITS: True})
    built = stages.compile_engine(shop, made.checkpoint, variant.identifier, compilation)
    directory = built.path / "engine"
    found = Manifest.of_directory(directory, "engine").digest
    if str(found) != built.record["digest"]:
        raise IntegrityError(
            "the validation twin in the work store is not the one that was built",
            where=str(built.path),
            actual=found,
            expected=built.record["digest"],
            remedy=f"remove the directory {built.path} and run again",
        )
    if engine.simulated:
        signed = SignedDirectory.of(engine, directory)
        name = variant.identifier
        return score_simulated(shop, source_of(work), signed, probe, name, way="context")
    version = str(engine.key.hard["tensorrt_llm"])
    runner = EngineRunner(version)
    told = {**runner.job(directory, "context"), **gpus_of(engine)}
    asks = Runner(f"tensorrt-llm-{version}", runner.score_step, told)
    return stages.score_engine(shop, built, probe, variant.identifier, runner=asks)
