"""The probe of layers: an engine's layers against its checkpoint's, on real engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checks import Check, Limit
from enginekeeper.validation.layers import LayerScores, layers_check, load_layers
from enginekeeper.validation.twin import write_checkpoint_twin
from tests.factories.checkpoints import SOURCE, edit_tensor, exported
from tests.factories.engine_bench import Bench

pytestmark = pytest.mark.toolchain

VOCABULARY = 96
LENGTHS = (40, 23, 31, 19, 28, 36, 22, 30)
LIMIT = Limit(0.0025, "at most", 0.99, 6)


def asked(bench: Bench, checkpoint: Path) -> LayerScores:
    twin = bench.folder / "twin"
    if not twin.exists():
        write_checkpoint_twin(SOURCE, checkpoint, twin)
    return load_layers(bench.parts("probe_layers", twin, VOCABULARY, LENGTHS))


def judged(scores: LayerScores) -> Check:
    return layers_check(scores, LIMIT)


@pytest.mark.parametrize("recipe", ["none", "fp8", "w4a16_awq"])
def test_a_layer_that_is_too_loud_is_named_and_a_healthy_engine_passes(
    recipe: str, bench: Bench, tmp_path: Path
) -> None:
    checkpoint = exported(recipe, tmp_path)
    bench.compile(checkpoint)
    healthy = judged(asked(bench, checkpoint))

    edit_tensor(
        bench.folder / "engine", "transformer.layers.1.post_layernorm.weight", lambda w: w * 1.02
    )
    wrong = judged(asked(bench, checkpoint))

    assert healthy.outcome in ("pass", "shown"), healthy
    assert wrong.outcome == "fail"
    assert wrong.finding is not None
    assert wrong.finding.where == "layers.1"


def test_an_answer_that_is_not_finite_fails_at_its_part(bench: Bench, tmp_path: Path) -> None:
    checkpoint = exported("none", tmp_path)
    bench.compile(checkpoint)
    edit_tensor(bench.folder / "engine", "transformer.ln_f.weight", lambda w: w * np.nan)

    check = judged(asked(bench, checkpoint))

    assert check.finding is not None
    assert (check.finding.where, check.finding.taxonomy) == ("head", "T20")
