"""Activation scales that contradict the weights, and scales that no format has a use for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import audit_weights
from tests.factories import checkpoints
from tests.factories.checkpoints import Array

LAYER = "transformer.layers.1"
DOWN = f"{LAYER}.mlp.proj"


def only_finding(checkpoint: Path) -> Finding:
    (finding,) = audit_weights(
        SourceModel.open(checkpoints.SOURCE), Checkpoint.open(checkpoint)
    ).findings
    return finding


def multiply(factor: float) -> Callable[[Array], Array]:
    return lambda values: values * np.float32(factor)


@pytest.mark.parametrize(
    ("recipe", "linear"),
    [
        ("fp8", f"{LAYER}.mlp.gate"),
        ("fp8", f"{LAYER}.mlp.fc"),
        ("w8a8_sq", DOWN),
        ("w8a8_sq", f"{LAYER}.attention.qkv"),
    ],
)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_an_activation_scale_that_contradicts_the_weights_is_found(
    recipe: str, linear: str, factor: float, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    name = f"{linear}.activation_scaling_factor"
    checkpoints.edit_tensor(checkpoint, name, multiply(factor))
    finding = only_finding(checkpoint)
    assert (finding.result, finding.where, finding.taxonomy) == ("fail", name, "T13")


@pytest.mark.parametrize("factor", [0.8, 1.05, 1.6])
def test_an_activation_scale_that_another_calibrator_may_choose_is_doubt(
    factor: float, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{DOWN}.activation_scaling_factor", multiply(factor))
    finding = only_finding(checkpoint)
    assert (finding.result, finding.taxonomy) == ("inconclusive", "T13")


@pytest.mark.parametrize(
    ("recipe", "suffix"),
    [
        ("w8a16", "per_channel_scale"),
        ("fp8", "weights_scaling_factor_2"),
        ("fp8_per_channel_per_token", "weights_scaling_factor"),
        ("none", "weights_scaling_factor"),
    ],
)
def test_a_scale_that_the_format_has_no_use_for_is_doubt(
    recipe: str, suffix: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    scales = np.full(64, 2, np.float32)
    checkpoints.edit_tensors(
        checkpoint, lambda tensors: tensors.update({f"{DOWN}.{suffix}": scales})
    )
    finding = only_finding(checkpoint)
    assert (finding.result, finding.where) == ("inconclusive", f"{DOWN}.{suffix}")


def test_a_scale_that_is_none_is_told_once_and_no_measure_of_others(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("fp8", tmp_path)
    broken = "transformer.layers.0.mlp.fc.activation_scaling_factor"
    checkpoints.edit_tensor(checkpoint, broken, multiply(np.nan))
    checkpoints.edit_tensor(checkpoint, f"{LAYER}.mlp.fc.activation_scaling_factor", multiply(3))
    source = SourceModel.open(checkpoints.SOURCE)
    found = [one.where for one in audit_weights(source, Checkpoint.open(checkpoint)).findings]
    assert len(found) == 2
    assert sum(LAYER in where for where in found) == 1
