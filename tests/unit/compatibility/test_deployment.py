"""Which engines cannot work where: the rules behind the gate's `incompatible`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enginekeeper.compatibility.deployment import refusal
from registry.environments import CpuEnvironment, Environment, GpuEnvironment
from registry.keys import EngineKey

CPU = CpuEnvironment(("avx2", "fma"), "2.13.0+cpu")
H100 = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "13.0", "13.0", "580.95.05")


def cpu_key(**changes: Any) -> EngineKey:  # noqa: ANN401 - key fields
    fields = {
        "builder": "inductor", "weights": "w", "instruction_set": ["avx2", "fma"],
        "torch": "2.13.0+cpu",
    }  # fmt: skip
    return EngineKey.of(**{**fields, **changes})


def gpu_key(**changes: Any) -> EngineKey:  # noqa: ANN401 - key fields
    fields = {
        "builder": "tensorrt_llm", "weights": "w", "gpu_product": H100.product,
        "compute_capability": "9.0", "cuda_runtime": "13.0", "driver": "580.95.05",
    }  # fmt: skip
    return EngineKey.of(**{**fields, **changes})


@pytest.mark.parametrize(
    ("key", "environment"),
    [
        (cpu_key(), CPU),
        (cpu_key(), replace(CPU, instruction_set=("amx_int8", "avx2", "fma"))),
        (cpu_key(instruction_set=[]), CPU),
        (gpu_key(), H100),
        # a driver is what an engine is validated again for, not refused for
        (gpu_key(), replace(H100, driver="590.1", cuda_driver="13.1")),
    ],
)
def test_an_engine_may_work_where_it_was_built_for(
    key: EngineKey, environment: Environment
) -> None:
    assert refusal(key, environment) is None


@pytest.mark.parametrize(
    ("key", "environment", "rule", "named"),
    [
        (cpu_key(), H100, "wrong-kind", "built for a CPU"),
        (gpu_key(), CPU, "wrong-kind", "built for a GPU"),
        (cpu_key(), replace(CPU, instruction_set=("avx2",)), "cpu-architecture-features", "fma"),
        (cpu_key(), replace(CPU, torch="2.12.0"), "torch-version", "2.12.0"),
        (cpu_key(torch=None), CPU, "torch-version", "2.13.0+cpu"),
        (gpu_key(), replace(H100, product="NVIDIA L40S"), "gpu-product", "NVIDIA L40S"),
        (gpu_key(), replace(H100, compute_capability="8.9"), "compute-capability", "8.9"),
        (gpu_key(), replace(H100, cuda_runtime="12.9"), "cuda-runtime", "12.9"),
    ],
)
def test_a_refusal_names_its_rule_and_what_is_wrong(
    key: EngineKey, environment: Environment, rule: str, named: str
) -> None:
    refused = refusal(key, environment)
    assert refused is not None
    assert refused.rule == rule
    assert named in refused.reason


def test_every_missing_cpu_feature_is_named() -> None:
    refused = refusal(cpu_key(), CpuEnvironment((), "2.13.0+cpu"))
    assert refused is not None
    assert "avx2, fma" in refused.reason


def test_every_other_rule_that_stands_against_it_is_evidence() -> None:
    refused = refusal(gpu_key(), replace(H100, product="NVIDIA L4", compute_capability="8.9"))
    assert refused is not None
    assert refused.rule == "compute-capability"
    source, other = refused.evidence
    assert source.startswith("source: NvInfer.h")
    assert other.startswith("gpu-product: ")
