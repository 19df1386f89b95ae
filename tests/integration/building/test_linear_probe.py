"""The probe of linears: each one of a real engine, alone, against its checkpoint's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checks import Check, Limit
from enginekeeper.validation.layers import LINEARS, LayerScores, layers_check, load_linears
from enginekeeper.validation.twin import write_checkpoint_twin
from tests.factories.checkpoints import SOURCE, Array, Edit, edit_tensor, exported
from tests.factories.engine_bench import Bench
from tests.factories.tiny_decoders import FAMILIES, write_decoder

pytestmark = pytest.mark.toolchain

VOCABULARY = 96
LENGTHS = (40, 23, 31, 19, 28, 36, 22, 30)
LIMIT = Limit(0.0025, "at most", 0.99, 6)
QKV, FC, PROJ = (f"transformer.layers.1.{name}" for name in ("attention.qkv", "mlp.fc", "mlp.proj"))


def asked(bench: Bench, twin: Path, vocabulary: int = VOCABULARY) -> LayerScores:
    return load_linears(bench.parts("probe_linears", twin, vocabulary, LENGTHS))


def of_export(recipe: str, bench: Bench, tmp_path: Path) -> Path:
    """Compiles an export and returns its twin."""
    checkpoint = exported(recipe, tmp_path)
    bench.compile(checkpoint)
    write_checkpoint_twin(SOURCE, checkpoint, bench.folder / "twin")
    return bench.folder / "twin"


def judged(scores: LayerScores) -> Check:
    return layers_check(scores, LIMIT, LINEARS)


def row_of(number: int, factor: float) -> Edit:
    def edit(weight: Array) -> Array:
        weight[number] = (weight[number] * factor).astype(weight.dtype)
        return weight

    return edit


def power_of_two(scale: Array) -> Array:
    return np.asarray(2 ** np.ceil(np.log2(scale)))


@dataclass(frozen=True)
class Fault:
    recipe: str
    tensor: str
    edit: Edit
    culprit: str | None
    """None where the linear reads otherwise, and multiplies what it read as it should."""


@pytest.mark.parametrize(
    "fault",
    [
        Fault("none", f"{QKV}.weight", row_of(3, 1.1), "layers.1.attention.qkv"),
        Fault("fp8", f"{FC}.weights_scaling_factor", power_of_two, "layers.1.mlp.fc"),
        Fault("w4a16_awq", f"{QKV}.weights_scaling_factor", lambda s: np.roll(s, 1, axis=1),
              "layers.1.attention.qkv"),
        Fault("w8a8_sq", f"{PROJ}.activation_scaling_factor", lambda s: s / 4, None),
        Fault("nvfp4", f"{PROJ}.weights_scaling_factor_2", lambda s: s * 1.05,
              "layers.1.mlp.proj"),
    ],
    ids=lambda fault: f"{fault.recipe}-{fault.culprit}",
)  # fmt: skip
def test_a_linear_that_multiplies_otherwise_is_named_and_a_healthy_engine_is_inside(
    fault: Fault, bench: Bench, tmp_path: Path
) -> None:
    twin = of_export(fault.recipe, bench, tmp_path)
    healthy = judged(asked(bench, twin))

    edit_tensor(bench.folder / "engine", fault.tensor, fault.edit)
    wrong = judged(asked(bench, twin))

    assert healthy.outcome in ("pass", "shown"), healthy
    if fault.culprit is None:
        assert wrong.outcome in ("pass", "shown")
        return
    assert wrong.outcome == "fail", wrong
    assert wrong.finding is not None
    assert {place.split(" ")[0] for place in wrong.finding.where.split(", ")} == {fault.culprit}


def test_the_output_that_is_furthest_away_is_named(bench: Bench, tmp_path: Path) -> None:
    twin = of_export("none", bench, tmp_path)
    edit_tensor(bench.folder / "engine", f"{FC}.weight", row_of(5, 1.5))

    scores = asked(bench, twin)
    check = judged(scores)

    assert check.finding is not None
    assert "most in output 5, by" in check.finding.message
    assert "layers.0.mlp.proj (decode)" in scores.parts
    assert scores.parts[-1] == "head"


def test_biases_of_another_family_are_no_error(bench: Bench, tmp_path: Path) -> None:
    source, checkpoint = write_decoder(FAMILIES["qwen2"], tmp_path / "qwen2")
    bench.compile(checkpoint)

    scores = asked(bench, source, 128)

    assert judged(scores).outcome == "pass", judged(scores)
    assert len(scores.parts) == 2 * 2 * 5 + 1
