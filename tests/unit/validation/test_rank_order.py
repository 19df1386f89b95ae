"""A rank's file under another rank's name is told as that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from enginekeeper.validation import rank_order
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import audit_weights
from tests.factories import checkpoints
from tests.factories.checkpoints import SOURCE


def found(checkpoint: Path) -> list[Finding]:
    source = SourceModel.open(SOURCE)
    geometry = Geometry.of(source.config)
    return list(rank_order.findings(source, Checkpoint.open(checkpoint), geometry))


@pytest.mark.parametrize("recipe", ["w4a16_awq_tp2", "w8a8_sq_tp2"])
def test_ranks_in_their_order_are_no_finding(recipe: str, tmp_path: Path) -> None:
    assert found(checkpoints.exported(recipe, tmp_path)) == []


@pytest.mark.parametrize("recipe", ["w4a16_awq_tp2", "w8a8_sq_tp2"])
def test_exchanged_files_are_named_before_their_tensors(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    first, second = (checkpoint / f"rank{rank}.safetensors" for rank in range(2))
    first.rename(checkpoint / "aside")
    second.rename(first)
    (checkpoint / "aside").rename(second)
    wheres = ["rank0.safetensors", "rank1.safetensors"]
    assert [finding.where for finding in found(checkpoint)] == wheres
    report = audit_weights(SourceModel.open(SOURCE), Checkpoint.open(checkpoint))
    assert [finding.where for finding in report.findings[:2]] == wheres


def test_one_file_twice_is_named_once(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq_tp2", tmp_path)
    shutil.copy(checkpoint / "rank0.safetensors", checkpoint / "rank1.safetensors")
    (finding,) = found(checkpoint)
    assert (finding.where, finding.taxonomy) == ("rank1.safetensors", "T14")
    assert "rank0.safetensors" in finding.message


def test_what_is_not_finite_is_left_to_others(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq_tp2", tmp_path)
    scale = "transformer.layers.0.attention.qkv.prequant_scaling_factor"
    checkpoints.edit_tensor(checkpoint, scale, lambda scales: scales * float("nan"), rank=1)
    assert found(checkpoint) == []
