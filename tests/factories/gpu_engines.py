"""Publishes engines whose keys are for GPUs into a site's registry; their bytes are no plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from enginekeeper.orchestration.publication import publish
from enginekeeper.specs.variants import Variant
from registry.environments import GpuEnvironment
from registry.keys import EngineKey
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of

H100 = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "13.0", "13.0", "580.95.05")


def gpu_key(weights: object, **fields: Any) -> EngineKey:  # noqa: ANN401 - key fields
    """Returns the key of an engine for H100 under CUDA 13.0."""
    base = {
        "builder": "tensorrt_llm", "weights": str(weights), "recipe": "fp8",
        "tensorrt_llm": "1.1.0", "tensorrt": "10.13.3", "gpu_product": H100.product,
        "compute_capability": H100.compute_capability, "cuda_runtime": H100.cuda_runtime,
        "tensor_parallel": 1, "pipeline_parallel": 1, "os": "linux", "cpu_architecture": "x86_64",
    }  # fmt: skip
    return EngineKey.of(**{**base, **fields})


def publish_for_gpu(
    site: Site, variant: Variant, *judged: GpuEnvironment, content: bytes = b"plan",
    simulated: bool = False, **fields: Any,  # noqa: ANN401 - key fields
) -> Engine:  # fmt: skip
    """Publishes an engine for a GPU that passed in the given environments.

    A simulated one is signed by keys of the trust root for simulated artifacts, its verdicts too.
    """
    built = site.built(variant, content)
    key = gpu_key(built.weights, **fields)
    maker = replace(built.maker, simulated=simulated)
    engine = publish(site.bench, replace(built, key=key, maker=maker), variant)
    for environment in judged:
        site.judge(engine, variant, Result.PASS, environment)
    return engine


def engine_in_channel(site: Site, directory: Path) -> Engine:
    """Publishes an engine that passed on the H100, and puts it into the channel `prod`."""
    made = publish_for_gpu(site, variants_of(directory)[0], H100)
    site.bench.registry.set_channel("prod", made.digest, H100, actor="anna")
    return made
