"""vLLM serving bundles in the pipeline: what makes one, what asks it, and what it is held against.

A bundle goes the way of an engine: made once, signed, published, scored on the same tokens, judged.
Its recipe is none, so its recipe twin is the source itself, in float32 under another runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from enginekeeper.building.vllm_bundle import VllmBuilder
from enginekeeper.configs.vllm_bundle import on_cpu
from enginekeeper.orchestration import stages
from enginekeeper.orchestration.asking import gpus_of
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.stages import Compilation, Made, Probe, Runner, Source
from enginekeeper.orchestration.tools import BUNDLING
from enginekeeper.specs.profiles import VLLM_TOOLCHAINS
from enginekeeper.specs.variants import Variant
from enginekeeper.validation.bundle_audit import audit_bundle
from enginekeeper.validation.findings import AuditReport
from registry.types import Engine

progress = logging.getLogger("enginekeeper.progress")

SCORE_STEP = "score_vllm"
_MINUTES = 30
"""vLLM reads a configuration in ten seconds; copying a large model takes longer."""


def bundling(
    bench: Bench, variant: Variant, source: Made, limits: Mapping[str, int]
) -> Compilation:
    """Returns what makes a variant's bundle, and what is asked of it.

    `source` is named by the digest of the weights; its record has the files that are the model.
    """
    builder = VllmBuilder(
        toolchain=variant.toolchain,
        name=variant.model.name,
        weights=source.key,
        files=source.record["files"],
        tensor_parallel=variant.parallel.tensor,
        pipeline_parallel=variant.parallel.pipeline,
        eager=variant.target.product is None,
    )
    bound = {
        "served_model_name": builder.name,
        "parallel": variant.parallel.part,
        "eager": str(builder.eager),
        "code": bench.shop.code(*BUNDLING),
    }
    return Compilation(builder, limits, bound=bound, minutes=_MINUTES)


def audited_bundle(name: str, source: Source, bundle: Made) -> tuple[AuditReport, ...]:
    """Holds a bundle against the source that the reference is of."""
    files = {one.name: one.sha256 for one in source.files}
    audits = audit_bundle(bundle.path / "engine", files)
    for report in audits:
        progress.info("%s: audit %s: %s", name, report.check, report.result)
    return audits


def score_bundle(bench: Bench, engine: Engine, bundle: Made, probe: Probe, name: str) -> Made:
    """Scores a verified bundle as vLLM serves it, on the GPU that it is for or on the CPU."""
    cpu = on_cpu(engine.key)
    told = {"bundle": str(bundle.path / "engine"), **({} if cpu else gpus_of(engine))}
    runner = Runner(VLLM_TOOLCHAINS["cpu" if cpu else "gpu"], SCORE_STEP, told)
    return stages.score_engine(bench.shop, bundle, probe, name, runner=runner)
