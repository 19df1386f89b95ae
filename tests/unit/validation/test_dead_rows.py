"""Rows and groups that the source has at zero: what may be stored of them, and what not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import Finding
from tests.factories import checkpoints
from tests.factories.checkpoints import Array
from tests.factories.honest_exports import export

DOWN = "transformer.layers.1.mlp.proj"
SCALES = {
    "W8A16": "weights_scaling_factor",
    "W4A16": "weights_scaling_factor",
    "FP8_PER_CHANNEL_PER_TOKEN": "per_channel_scale",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model one of whose linears has rows 3 and 10 at zero."""
    model = checkpoints.source_copy(tmp_path)

    def silence(weight: Array) -> None:
        weight[[3, 10]] = 0

    checkpoints.edit_tensor(model, "model.layers.1.mlp.down_proj.weight", silence)
    return model


def findings(source: Path, checkpoint: Path) -> list[Finding]:
    return [one for report in audit(source, checkpoint) for one in report.findings]


@pytest.mark.parametrize("algorithm", SCALES)
def test_a_scale_of_zero_of_zeros_is_honest(algorithm: str, source: Path, tmp_path: Path) -> None:
    checkpoint = export(source, tmp_path / "checkpoint", algorithm)

    def lose(scales: Array) -> None:
        scales[[3, 10]] = 0

    checkpoints.edit_tensor(checkpoint, f"{DOWN}.{SCALES[algorithm]}", lose)
    assert findings(source, checkpoint) == []


@pytest.mark.parametrize("algorithm", SCALES)
def test_a_scale_of_zero_of_other_numbers_is_none(
    algorithm: str, source: Path, tmp_path: Path
) -> None:
    checkpoint = export(source, tmp_path / "checkpoint", algorithm)

    def lose(scales: Array) -> None:
        scales[[3, 11]] = 0

    checkpoints.edit_tensor(checkpoint, f"{DOWN}.{SCALES[algorithm]}", lose)
    (finding,) = findings(source, checkpoint)
    assert (finding.check, finding.taxonomy) == ("weights.scale", "T2")


@pytest.mark.parametrize(
    ("algorithm", "noise"),
    [("W8A16", 0), ("W8A16", 5), ("FP8_PER_CHANNEL_PER_TOKEN", 0)],
)
def test_numbers_where_the_source_has_zeros_are_damage(
    algorithm: str, noise: int, source: Path, tmp_path: Path
) -> None:
    checkpoint = export(source, tmp_path / "checkpoint", algorithm)

    def write(arrays: dict[str, Array]) -> None:
        weight, scales = arrays[f"{DOWN}.weight"], arrays[f"{DOWN}.{SCALES[algorithm]}"]
        weight[3], scales[3] = weight[11], scales[11]
        if noise:
            weight[3] = np.random.default_rng(0).integers(-noise, noise + 1, weight.shape[1])

    checkpoints.edit_tensors(checkpoint, write)
    (finding,) = findings(source, checkpoint)
    assert (finding.where, finding.result) == (DOWN, "fail")
    assert "row 3 " in finding.message


def test_a_weight_that_float16_does_not_hold_is_found(tmp_path: Path) -> None:
    model = checkpoints.source_copy(tmp_path)

    def enlarge(weight: Array) -> None:
        weight[5, 7] = 1e5

    checkpoints.edit_tensor(model, "model.layers.1.mlp.down_proj.weight", enlarge)
    checkpoint = export(
        model, tmp_path / "checkpoint", "W8A16", dtype="float16", loaded_in="bfloat16"
    )
    (finding,) = findings(model, checkpoint)
    assert (finding.where, finding.taxonomy) == (f"{DOWN}.weight", "T20")


@pytest.mark.parametrize("algorithm", SCALES)
def test_a_lost_scale_of_rows_that_are_not_zero_is_found(
    algorithm: str, source: Path, tmp_path: Path
) -> None:
    checkpoint = export(source, tmp_path / "checkpoint", algorithm)

    def lose(arrays: dict[str, Array]) -> None:
        arrays[f"{DOWN}.{SCALES[algorithm]}"][4] = 0
        arrays[f"{DOWN}.weight"][2 if algorithm == "W4A16" else 4] = 0

    checkpoints.edit_tensors(checkpoint, lose)
    assert "fail" in {one.result for one in findings(source, checkpoint)}
