"""The embedded builder's own decisions, without its toolchain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginekeeper.building.inductor import InductorBuilder
from enginekeeper.building.interface import Builder, BuildRequest
from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.toolchains.results import StepOutcome
from tests.factories.step_modules import step_module

BUILDER = InductorBuilder(shared_graphs=Path("/graphs"))
REQUEST = BuildRequest(Path("/checkpoint"), Path("/engine"), {"max_batch_size": 8})


def test_the_step_builds_every_architecture_that_the_rules_let_pass() -> None:
    offered = toolchain_profiles()["inductor"].architectures

    assert offered <= set(step_module("_model_config").FAMILIES)


def test_a_build_is_one_step_and_tells_what_was_reused() -> None:
    asked: list[tuple[str, str, Mapping[str, Any]]] = []
    row = {"signature": "ab", "entry": "decode", "seconds": 6.5, "reused": True, "bytes": 17}

    def run(toolchain: str, step: str, job: Mapping[str, Any], /) -> StepOutcome:
        asked.append((toolchain, step, job))
        outputs = {"engine": {"builder": "inductor"}, "graphs": [row]}
        return StepOutcome(outputs, {"torch": "2.13.0"}, 12.0, Path("step.log"))

    builder: Builder = BUILDER
    engine = builder.build(REQUEST, run)

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
