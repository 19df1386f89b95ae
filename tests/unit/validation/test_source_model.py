"""The source model: whole directories are read, broken ones refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from enginekeeper.errors import InputError
from enginekeeper.validation.checkpoint import Checkpoint, UnusableCheckpointError
from enginekeeper.validation.source_model import SourceModel, UnusableModelError
from enginekeeper.validation.tensor_files import MalformedTensorsError, PlannedTensor, write_tensors
from enginekeeper.validation.weight_audit import audit_weights
from tests.factories import checkpoints
from tests.factories.checkpoints import Array


def sharded(directory: Path) -> Path:
    """A model of two shards with an index."""
    names = ["a.weight", "b.weight"]
    for number, name in enumerate(names):
        values = np.full((2, 2), number, np.float32)
        write_tensors(directory / f"{number}.st", [PlannedTensor(name, "F32", (2, 2), [values])])
    index = {"weight_map": {name: f"{number}.st" for number, name in enumerate(names)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(checkpoints.SOURCE / "config.json", directory)
    return directory


def test_shards_are_read_through_the_index(tmp_path: Path) -> None:
    model = SourceModel.open(sharded(tmp_path))
    assert model.rows("b.weight", 0, 1).tolist() == [[1.0, 1.0]]
    assert "c.weight" not in model


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (sharded(tmp_path) / "1.st").unlink()
    with pytest.raises(UnusableModelError, match="shard is missing"):
        SourceModel.open(tmp_path)


def test_a_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    directory = sharded(tmp_path)
    write_tensors(directory / "1.st", [])
    with pytest.raises(UnusableModelError, match="no shard holds"):
        SourceModel.open(directory)


@pytest.mark.parametrize("index", ["{}", "[]", "nonsense", '{"weight_map": {"a": "../x"}}'])
def test_a_broken_index_is_refused(index: str, tmp_path: Path) -> None:
    (sharded(tmp_path) / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError):
        SourceModel.open(tmp_path)


def test_a_shard_cut_short_is_refused(tmp_path: Path) -> None:
    path = checkpoints.source_copy(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MalformedTensorsError, match="cut short"):
        SourceModel.open(path.parent)


@pytest.mark.parametrize("dtype", [bfloat16, np.float16, np.float32])
def test_the_largest_magnitude_is_that_of_all_rows_whatever_its_sign(
    dtype: type[Any], tmp_path: Path
) -> None:
    values: Array = np.linspace(-3, 2, 300_000, dtype=np.float32).reshape(-1, 100).astype(dtype)
    write_tensors(tmp_path / "model.safetensors", [PlannedTensor.of("a.weight", values)])
    shutil.copy(checkpoints.SOURCE / "config.json", tmp_path)
    assert SourceModel.open(tmp_path).largest("a.weight") == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float, tmp_path: Path) -> None:
    source = checkpoints.source_copy(tmp_path)

    def spoil(weight: Array) -> None:
        weight[3, 5] = bad

    checkpoints.edit_tensor(source, "model.layers.0.mlp.up_proj.weight", spoil)
    with pytest.raises(UnusableModelError, match="not finite"):
        SourceModel.open(source).rows("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(UnusableModelError, match="not finite"):
        SourceModel.open(source).largest("model.layers.0.mlp.up_proj.weight")


def test_a_quantized_source_is_refused(tmp_path: Path) -> None:
    source = checkpoints.source_copy(tmp_path)

    path = source / "model.safetensors"
    write_tensors(path, [PlannedTensor("model.norm.weight", "I8", (64,), [np.ones(64, np.int8)])])
    with pytest.raises(UnusableModelError, match="not unquantized"):
        SourceModel.open(source).rows("model.norm.weight")


def test_a_model_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        SourceModel.open(tmp_path)


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq_tp2", tmp_path)
    (checkpoint / "rank1.safetensors").unlink()
    with pytest.raises(UnusableCheckpointError, match="rank are missing"):
        Checkpoint.open(checkpoint)


@pytest.mark.parametrize("change", [{"num_hidden_layers": "two"}, {"quantization": [1]}])
def test_a_config_of_something_else_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(checkpoint, **change)
    with pytest.raises(InputError, match=f"{next(iter(change))} is not usable"):
        Checkpoint.open(checkpoint)


@pytest.mark.parametrize(
    "shape", [(0, 64), (64,), (), (127, 64), (129, 64), (128, 65), (1, 128, 64)]
)
def test_a_source_whose_tensor_is_not_of_the_size_that_its_config_says_is_refused(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    source = checkpoints.source_copy(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoints.edit_tensor(source, name, lambda _: np.zeros(shape))
    export = Checkpoint.open(checkpoints.EXPORTS / "unified_fp8")
    with pytest.raises(UnusableModelError, match=r"layers\.1\.mlp\.up_proj"):
        audit_weights(SourceModel.open(source), export)
