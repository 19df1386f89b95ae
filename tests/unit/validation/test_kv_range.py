"""KV-cache scales against what the source's weights can make of keys and values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.kv_range import findings
from enginekeeper.validation.numerics.formats import INT8_MAX
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


def upper_bound(finding: Finding) -> float:
    assert isinstance(finding.expected, list)
    return float(finding.expected[1]) * INT8_MAX


def answers(key: str) -> npt.NDArray[np.floating]:
    """What a linear says to a thousand inputs of a norm, and to the one that its longest row likes.

    By input, head and output.
    """
    source = SourceModel.open(checkpoints.SOURCE)
    norm = source.rows("model.layers.1.input_layernorm.weight")
    weights = source.rows(f"model.layers.1.self_attn.{key}_proj.weight") * norm
    inputs = np.random.default_rng(1).standard_normal((1000, len(norm)))
    worst = weights[np.linalg.norm(weights, axis=1).argmax()]
    inputs = np.concatenate([inputs, worst[None]])
    inputs *= math.sqrt(len(norm)) / np.linalg.norm(inputs, axis=1, keepdims=True)
    said: npt.NDArray[np.floating] = inputs @ weights.T
    return said.reshape(len(said), Geometry.of(source.config).kv_heads, -1)


def test_no_input_makes_larger_values_than_the_bound_says_and_one_makes_them(
    tmp_path: Path,
) -> None:
    (_, values, _) = judged(tmp_path, 200.0)
    assert upper_bound(values) == pytest.approx(float(np.abs(answers("v")).max()), rel=1e-5)


def test_no_input_makes_larger_keys_than_the_bound_says_however_they_are_turned(
    tmp_path: Path,
) -> None:
    (keys, _, _) = judged(tmp_path, 200.0)
    largest = np.sort(np.abs(answers("k")), axis=2)[:, :, -2:]
    assert upper_bound(keys) >= float(np.hypot(largest[..., 0], largest[..., 1]).max())


def test_a_scale_that_one_rank_holds_nothing_of_is_shown_as_it_is_there(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq_tp2", tmp_path)
    checkpoints.edit_quantization(checkpoint, kv_cache_quant_algo="FP8")
    name = f"{ATTENTION}.v_cache_scaling_factor"
    one, none = {name: np.ones(1, np.float32)}, {name: np.ones(0, np.float32)}
    checkpoints.edit_tensors(checkpoint, lambda arrays: arrays.update(one))
    checkpoints.edit_tensors(checkpoint, lambda arrays: arrays.update(none), rank=1)
    (finding,) = audited(checkpoint)
    assert (finding.where, finding.actual) == (name, "[0]")
