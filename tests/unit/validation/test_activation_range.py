"""Activation scales of linears that no norm feeds, against what the source can feed them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation import activation_range
from enginekeeper.validation.activation_range import findings
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.reach import Reach
from enginekeeper.validation.source_model import SourceModel
from tests.factories import checkpoints

LINEARS = ("attention.dense", "mlp.proj")


def judged(recipe: str, directory: Path, *edits: tuple[str, float]) -> list[Finding]:
    """Multiplies scales by a factor and judges all."""
    checkpoint = checkpoints.exported(recipe, directory)
    for name, factor in edits:
        scale = f"transformer.layers.{name}.activation_scaling_factor"
        checkpoints.edit_tensor(checkpoint, scale, partial(np.multiply, np.float32(factor)))
    source = SourceModel.open(checkpoints.SOURCE)
    return list(findings(source, Checkpoint.open(checkpoint), Geometry.of(source.config)))


@pytest.mark.parametrize("recipe", ["fp8", "nvfp4", "w4a8_awq", "w8a8_sq", "w8a8_sq_tp2"])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_calibrated_scales_with_a_margin_are_possible(
    recipe: str, factor: float, tmp_path: Path
) -> None:
    edits = [(f"{layer}.{name}", factor) for layer in range(2) for name in LINEARS]
    assert judged(recipe, tmp_path, *edits) == []


@pytest.mark.parametrize("recipe", ["fp8", "nvfp4", "w8a8_sq"])
@pytest.mark.parametrize("linear", LINEARS)
def test_a_scale_for_more_than_can_come_is_found(recipe: str, linear: str, tmp_path: Path) -> None:
    (finding,) = judged(recipe, tmp_path, (f"1.{linear}", 1e5))
    assert finding.where == f"transformer.layers.1.{linear}.activation_scaling_factor"
    assert (finding.result, finding.taxonomy) == ("fail", "T13")


def test_scales_that_are_all_too_large_are_all_found(tmp_path: Path) -> None:
    edits = [(f"{layer}.mlp.proj", 1e5) for layer in range(2)]
    assert len(judged("fp8", tmp_path, *edits)) == len(edits)


@pytest.mark.parametrize("linear", ["attention.qkv", "mlp.fc", *LINEARS])
def test_a_scale_far_below_all_other_layers_is_doubt(
    linear: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation_range, "_LAYERS", 2)
    (finding,) = judged("fp8", tmp_path, (f"1.{linear}", 1e-3))
    assert finding.where == f"transformer.layers.1.{linear}.activation_scaling_factor"
    assert (finding.result, finding.taxonomy) == ("inconclusive", "T13")


def test_a_vector_that_is_one_number_is_left_to_others(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    name = "transformer.layers.1.attention.dense.prequant_scaling_factor"
    checkpoints.edit_tensors(
        checkpoint, lambda tensors: tensors.update({name: np.ones((), np.float32)})
    )
    scale = "transformer.layers.1.attention.dense.activation_scaling_factor"
    checkpoints.edit_tensor(checkpoint, scale, partial(np.multiply, np.float32(1e6)))
    source = SourceModel.open(checkpoints.SOURCE)
    opened, geometry = Checkpoint.open(checkpoint), Geometry.of(source.config)
    assert list(findings(source, opened, geometry)) == []


def test_no_input_makes_more_than_the_reach_and_one_makes_as_much() -> None:
    source, prefix = SourceModel.open(checkpoints.SOURCE), "model.layers.1"
    norm, module = f"{prefix}.post_attention_layernorm", f"{prefix}.mlp.up_proj"
    reach = Reach.of(source, norm, module)
    rows = source.rows(f"{module}.weight") * source.rows(f"{norm}.weight")
    inputs = np.concatenate([np.random.default_rng(1).normal(size=(500, rows.shape[1])), rows])
    inputs *= np.sqrt(rows.shape[1]) / np.linalg.norm(inputs, axis=1, keepdims=True)
    outputs = np.abs(inputs @ rows.T)
    assert (outputs <= reach.largest * 1.0001).all()
    assert outputs.max(axis=0) == pytest.approx(reach.largest, rel=1e-4)
