"""Honest exports of other families and shapes pass every audit, and their own faults do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import Finding
from tests.factories import checkpoints
from tests.factories.families import FAMILIES, Cut, lay_out
from tests.factories.honest_exports import ALGORITHMS, export

PROJ_SCALE = "transformer.layers.1.mlp.proj.activation_scaling_factor"

CUT = Cut(layers=(0, 1), vocabulary=92)
"""Of the tiny source of `tests/assets`; 92 is no multiple of 64."""


def source_of(name: str, directory: Path) -> Path:
    return lay_out(FAMILIES[name], checkpoints.SOURCE, CUT, directory / name)


def findings(source: Path, checkpoint: Path) -> list[Finding]:
    return [one for report in audit(source, checkpoint) for one in report.findings]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_honest_export_has_no_finding(name: str, algorithm: str | None, tmp_path: Path) -> None:
    source = source_of(name, tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", algorithm)
    assert findings(source, checkpoint) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["mistral", "dead", "norms", "float32"])
def test_an_honest_export_in_float16_has_no_finding(
    name: str, algorithm: str | None, tmp_path: Path
) -> None:
    source = source_of(name, tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", algorithm, dtype="float16")
    assert findings(source, checkpoint) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("name", "loaded_in", "dtype"),
    [
        ("llama3", "bfloat16", "float16"),
        ("norms", "bfloat16", "float16"),
        ("outliers", "bfloat16", "float16"),
        ("mistral", "float16", "bfloat16"),
    ],
)
def test_an_honest_export_of_a_model_loaded_in_its_own_dtype_has_no_finding(
    name: str, loaded_in: str, dtype: str, algorithm: str | None, tmp_path: Path
) -> None:
    source = source_of(name, tmp_path)
    checkpoint = export(
        source, tmp_path / "checkpoint", algorithm, dtype=dtype, loaded_in=loaded_in
    )
    assert findings(source, checkpoint) == []


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "W8A8_SQ_PER_CHANNEL"])
def test_an_honest_export_of_a_model_loaded_in_float32_has_no_finding(
    algorithm: str | None, tmp_path: Path
) -> None:
    source = source_of("float32", tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", algorithm, loaded_in="float32")
    assert findings(source, checkpoint) == []


@pytest.mark.parametrize("algorithm", [one for one in ALGORITHMS if one is not None])
def test_a_gain_is_found_in_an_export_of_a_model_loaded_in_its_own_dtype(
    algorithm: str, tmp_path: Path
) -> None:
    source = source_of("llama3", tmp_path)
    checkpoint = export(
        source, tmp_path / "checkpoint", algorithm, dtype="float16", loaded_in="bfloat16"
    )
    linear = "transformer.layers.1.mlp.proj"
    scales = "per_channel_scale" if "CHANNEL_PER_TOKEN" in algorithm else "weights_scaling_factor"
    outer = "_2" if algorithm == "NVFP4" else ""
    checkpoints.edit_tensor(checkpoint, f"{linear}.{scales}{outer}", lambda one: one * 1.02)
    assert [one.result for one in findings(source, checkpoint)] == ["fail"]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("algorithm", [None, "W8A8_SQ_PER_CHANNEL", "W4A16", "FP8"])
@pytest.mark.parametrize("name", ["llama3", "qwen2", "one-key-head", "biases", "qwen3"])
def test_an_honest_export_for_several_ranks_has_no_finding(
    name: str, algorithm: str | None, ranks: int, tmp_path: Path
) -> None:
    source = source_of(name, tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", algorithm, ranks=ranks)
    assert findings(source, checkpoint) == []


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("qwen2", "attention.qkv.bias"),
        ("qwen3", "attention.q_layernorm.weight"),
        ("qwen3", "attention.k_layernorm.weight"),
        ("biases", "attention.dense.bias"),
        ("biases", "mlp.proj.bias"),
    ],
)
def test_one_wrong_number_of_what_a_family_has_more_is_named(
    name: str, tensor: str, tmp_path: Path
) -> None:
    source = source_of(name, tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", None)
    where = f"transformer.layers.1.{tensor}"

    def spoil(values: checkpoints.Array) -> None:
        values[3] = values[3].astype(np.float32) * 1.02 + 0.02

    checkpoints.edit_tensor(checkpoint, where, spoil)
    found = findings(source, checkpoint)
    assert [(one.result, one.where) for one in found] == [("fail", where)]


def test_a_gain_of_three_thousandths_is_no_doubt_in_float16(tmp_path: Path) -> None:
    source = source_of("mistral", tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", None, dtype="float16")
    where = "transformer.layers.0.mlp.proj"
    checkpoints.edit_tensor(checkpoint, f"{where}.weight", lambda w: w.astype(np.float32) * 1.003)
    found = findings(source, checkpoint)
    assert [(one.result, one.where) for one in found] == [("fail", where)]


@pytest.mark.parametrize(
    ("held_down", "factor", "found"),
    [(True, 3.0, []), (True, 0.5, [PROJ_SCALE]), (False, 3.0, [PROJ_SCALE])],
    ids=["larger", "smaller", "larger-without-a-channel-at-the-lowest-divisor"],
)
def test_a_channel_at_the_lowest_divisor_allows_a_larger_activation_scale(
    tmp_path: Path, found: list[str], factor: float, *, held_down: bool
) -> None:
    source = source_of("one-key-head", tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", "W8A8_SQ_PER_CHANNEL", loud=held_down)
    checkpoints.edit_tensor(checkpoint, PROJ_SCALE, lambda scale: scale * np.float32(factor))
    assert [one.where for one in findings(source, checkpoint)] == found


def test_a_tensor_of_the_source_that_nothing_reads_is_a_doubt(tmp_path: Path) -> None:
    source = source_of("one-key-head", tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", None)
    extra = "model.layers.1.pre_feedforward_layernorm.weight"

    def add(tensors: dict[str, checkpoints.Array]) -> None:
        tensors[extra] = np.ones(64, np.float32)

    checkpoints.edit_tensors(source, add)
    found = findings(source, checkpoint)
    assert [(one.result, one.where) for one in found] == [("inconclusive", extra)]


def test_rotary_frequencies_in_an_older_source_are_no_doubt(tmp_path: Path) -> None:
    source = source_of("one-key-head", tmp_path)
    checkpoint = export(source, tmp_path / "checkpoint", None)

    def add(tensors: dict[str, checkpoints.Array]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)

    checkpoints.edit_tensors(source, add)
    assert findings(source, checkpoint) == []
