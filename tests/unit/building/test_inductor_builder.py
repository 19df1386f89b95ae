"""The embedded builder's own decisions, without its toolchain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.inductor import ARCHITECTURES, InductorBuilder
from enginekeeper.building.interface import Builder, BuildRequest, VariantFacts
from enginekeeper.toolchains.results import StepOutcome
from tests.factories.step_modules import step_module

FACTS = VariantFacts(
    architecture="LlamaForCausalLM",
    recipe="w8a16",
    kv_cache="auto",
    tensor_parallel=1,
    pipeline_parallel=1,
    target="cpu",
)
BUILDER = InductorBuilder(shared_graphs=Path("/graphs"))
REQUEST = BuildRequest(Path("/checkpoint"), Path("/engine"), {"max_batch_size": 8})


def test_a_llama_on_the_cpu_can_be_built() -> None:
    builder: Builder = BUILDER

    assert builder.unsupported(FACTS) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "MixtralForCausalLM"),
        ("kv_cache", "nvfp4"),
        ("tensor_parallel", 2),
        ("pipeline_parallel", 2),
        ("target", "NVIDIA H100 80GB HBM3"),
    ],
)
def test_what_cannot_be_built_is_named(field: str, value: Any) -> None:  # noqa: ANN401 - of the field's type
    reason = BUILDER.unsupported(replace(FACTS, **{field: value}))

    assert reason is not None
    assert (reason.field, reason.actual) == (field, value)
    assert str(value) in str(reason)


def test_the_step_builds_every_architecture_the_builder_offers() -> None:
    assert set(ARCHITECTURES) <= set(step_module("_model_config").FAMILIES)


def test_an_engine_is_bound_to_torch_and_the_instruction_set() -> None:
    fields = BUILDER.key_fields({"torch": "2.13.0+cpu", "instruction_set": ("avx512f",)})

    assert fields == {
        "builder": "inductor", "torch": "2.13.0+cpu", "instruction_set": ["avx512f"]
    }  # fmt: skip


def test_a_build_is_one_step_and_tells_what_was_reused() -> None:
    asked: list[tuple[str, str, Mapping[str, Any]]] = []
    row = {"signature": "ab", "entry": "decode", "seconds": 6.5, "reused": True, "bytes": 17}

    def run(toolchain: str, step: str, job: Mapping[str, Any], /) -> StepOutcome:
        asked.append((toolchain, step, job))
        outputs = {"engine": {"builder": "inductor"}, "graphs": [row]}
        return StepOutcome(outputs, {"torch": "2.13.0"}, 12.0, Path("step.log"))

    engine = BUILDER.build(REQUEST, run)

    assert asked == [("inductor", "compile_engine", BUILDER.job(REQUEST))]
    assert engine.directory == Path("/engine")
    assert engine.graphs[0].reused
    assert engine.graphs[0].size == 17


def test_the_job_holds_plain_values_only() -> None:
    assert BUILDER.job(REQUEST) == {
        "checkpoint": "/checkpoint",
        "output": "/engine",
        "graphs": "/graphs",
        "limits": {"max_batch_size": 8},
    }
