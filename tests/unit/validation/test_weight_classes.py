"""Which class a wrong scale is said to be of: what another author's faults were misnamed as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import Finding
from tests.factories import checkpoints

DOWN, QKV = "transformer.layers.1.mlp.proj", "transformer.layers.1.attention.qkv"


def findings(checkpoint: Path) -> list[Finding]:
    return [f for report in audit(checkpoints.SOURCE, checkpoint) for f in report.findings]


def test_the_reciprocal_of_a_single_scale_is_recognised(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("fp8", tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{DOWN}.weights_scaling_factor", lambda s: 1 / s)
    (finding,) = findings(checkpoint)
    assert (finding.where, finding.taxonomy) == (DOWN, "T2")
    assert finding.message == "the scales are stored as reciprocals"


def test_the_missing_second_scale_of_nvfp4_is_named(tmp_path: Path) -> None:
    checkpoint, name = checkpoints.exported("nvfp4", tmp_path), f"{DOWN}.weights_scaling_factor_2"
    checkpoints.edit_tensors(checkpoint, lambda arrays: arrays.pop(name))
    (finding,) = findings(checkpoint)
    assert (finding.where, finding.taxonomy) == (name, "T2")
    assert finding.message == "the scale is missing"


def test_one_scale_for_all_rows_is_no_other_vector(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    checkpoints.edit_tensor(
        checkpoint, f"{DOWN}.weights_scaling_factor", lambda s: np.full_like(s, s.max())
    )
    (finding,) = findings(checkpoint)
    assert (finding.where, finding.taxonomy) == (DOWN, "T3")
    assert "scales are wrong" in finding.message


@pytest.mark.parametrize("recipe", ["fp8", "nvfp4"])
def test_a_factor_of_all_fused_parts_is_not_that_of_one(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    name = f"{QKV}.weights_scaling_factor{'_2' if recipe == 'nvfp4' else ''}"
    checkpoints.edit_tensor(checkpoint, name, lambda s: s * np.float32(1.05))
    found = findings(checkpoint)
    assert [finding.where for finding in found] == [f"{QKV} ({part})" for part in "qkv"]
    assert {finding.taxonomy for finding in found} == {"T1"}
