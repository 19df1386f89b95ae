"""W4A8's second scale: what makes FP8 numbers of INT4 weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.mapping import Geometry, layer_linears
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import audit_weights
from enginekeeper.validation.weight_census import beyond_fp8
from tests.factories import checkpoints

DOWN = "transformer.layers.1.mlp.proj"


def only_finding(checkpoint: Path) -> Finding:
    source = SourceModel.open(checkpoints.SOURCE)
    (finding,) = audit_weights(source, Checkpoint.open(checkpoint)).findings
    assert finding.result == "fail"
    return finding


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0, 1e-6, 1.0, 1e30])
def test_a_second_scale_of_w4a8_that_fp8_cannot_hold_is_found(value: float, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a8_awq", tmp_path)
    name = f"{DOWN}.weights_scaling_factor_2"
    checkpoints.edit_tensor(checkpoint, name, lambda scale: np.full_like(scale, value))
    finding = only_finding(checkpoint)
    assert (finding.where, finding.taxonomy) == (name, "T2")


def test_the_scale_of_a_group_of_zeros_is_no_weight_in_fp8(tmp_path: Path) -> None:
    source = SourceModel.open(checkpoints.SOURCE)
    checkpoint = Checkpoint.open(checkpoints.exported("w4a8_awq", tmp_path))
    place = next(layer_linears(1, Geometry.of(source.config)))
    stored = checkpoint.linear(place)
    dead = replace(stored.first, scales=np.concatenate([stored.first.scales, [[1e3, 1e3]]]))
    assert list(beyond_fp8(stored)) == []
    assert list(beyond_fp8(replace(stored, shards=(dead,)))) == []


def test_a_second_scale_of_w4a8_that_is_missing_is_found(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a8_awq", tmp_path)
    name = f"{DOWN}.weights_scaling_factor_2"
    checkpoints.edit_tensors(checkpoint, lambda tensors: tensors.pop(name))
    assert only_finding(checkpoint).where == name
