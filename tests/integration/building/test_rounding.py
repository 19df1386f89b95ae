"""Our rounding of activations is ModelOpt's, up to numbers that lie on a tie."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.toolchains.runner import StepRun, run_step

pytestmark = pytest.mark.toolchain

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "steps"


def test_at_most_a_few_in_a_million_fall_on_the_other_side(modelopt: Path, tmp_path: Path) -> None:
    job = {"rows": 2048, "columns": 576, "seed": 0}
    step = StepRun("modelopt", "compare_rounding", job, tmp_path / "run", 300, scripts=SCRIPTS)

    outputs = run_step(step, python=modelopt).outputs

    assert outputs["flips"]["nvfp4"] == 0
    assert max(outputs["flips"].values()) <= outputs["numbers"] * 5e-6
