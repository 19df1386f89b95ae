"""KV-cache scales against what the source's weights can make of keys and values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.kv_range import findings
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.source_model import SourceModel
from tests.factories import checkpoints

ATTENTION = "transformer.layers.1.attention"


def judged(tmp_path: Path, factor: float, *, value: float | None = None) -> list[Finding]:
    """Multiplies or sets the three scales of a layer whose cache was calibrated for INT8."""
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    for key in ("k", "v", "kv"):
        name = f"{ATTENTION}.{key}_cache_scaling_factor"
        checkpoints.edit_tensor(
            checkpoint,
            name,
            lambda s: np.full_like(s, value) if value else s * np.float32(factor),
        )
    return audited(checkpoint)


def audited(checkpoint: Path) -> list[Finding]:
    source = SourceModel.open(checkpoints.SOURCE)
    return list(findings(source, Checkpoint.open(checkpoint), Geometry.of(source.config)))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_scales_near_the_calibrated_ones_are_likely(factor: float, tmp_path: Path) -> None:
    assert judged(tmp_path, factor) == []


@pytest.mark.parametrize(("factor", "taxonomy"), [(1 / 64, "T11"), (200.0, "T10")])
def test_scales_of_no_calibration_are_found(factor: float, taxonomy: str, tmp_path: Path) -> None:
    found = judged(tmp_path, factor)
    assert [finding.where for finding in found] == [
        f"{ATTENTION}.{key}_cache_scaling_factor" for key in ("k", "v", "kv")
    ]
    assert {(finding.result, finding.taxonomy) for finding in found} == {("fail", taxonomy)}


def test_an_int8_scale_of_one_is_no_calibration(tmp_path: Path) -> None:
    found = judged(tmp_path, 1.0, value=1.0)
    assert {finding.message for finding in found} == {
        "the scale of an INT8 cache is 1, as where none was stored"
    }


def test_a_scale_of_several_numbers_is_found(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    name = f"{ATTENTION}.v_cache_scaling_factor"
    checkpoints.edit_tensor(checkpoint, name, lambda scale: np.repeat(scale, 3))
    (finding,) = audited(checkpoint)
    assert (finding.where, finding.result, finding.actual) == (name, "fail", "[3]")


def test_an_fp8_scale_of_one_is_a_clamp(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    checkpoints.edit_quantization(checkpoint, kv_cache_quant_algo="FP8")

    def clamp(arrays: dict[str, checkpoints.Array]) -> None:
        for name, scale in list(arrays.items()):
            if name.endswith("_cache_scaling_factor"):
                arrays[name] = np.ones_like(scale)

    checkpoints.edit_tensors(checkpoint, clamp)
    assert audited(checkpoint) == []


def test_no_input_makes_larger_keys_or_values_than_the_bound_says() -> None:
    source = SourceModel.open(checkpoints.SOURCE)
    attention = "model.layers.1.self_attn"
    norm = source.rows("model.layers.1.input_layernorm.weight")
    weights = source.rows(f"{attention}.v_proj.weight") * norm
    bound = math.sqrt(len(norm)) * float(np.linalg.norm(weights, axis=1).max())
    inputs = np.random.default_rng(1).standard_normal((1000, len(norm)))
    worst = weights[np.linalg.norm(weights, axis=1).argmax()]
    inputs = np.concatenate([inputs, worst[None]])
    inputs *= math.sqrt(len(norm)) / np.linalg.norm(inputs, axis=1, keepdims=True)
    largest = float(np.abs(inputs @ weights.T).max())
    assert largest == pytest.approx(bound, rel=1e-5)
