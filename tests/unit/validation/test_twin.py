"""Twins of real ModelOpt exports of a tiny model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginekeeper.faults.catalogue import named
from enginekeeper.faults.fault import Target
from enginekeeper.faults.injection import Injection, inject
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.numerics.linears import MisshapenLinearError
from enginekeeper.validation.source_model import SourceModel, UnusableModelError
from enginekeeper.validation.tensor_files import TensorFile
from enginekeeper.validation.twin import (
    is_checkpoint_twin,
    write_checkpoint_twin,
    write_recipe_twin,
)
from tests.factories import checkpoints
from tests.factories.checkpoints import Array

WEIGHT_ONLY = ("none", "w8a16", "w4a16", "w4a16_awq", "w4a16_awq_tp2")
LAYER = "model.layers.1"


def recipe_twin(recipe: str, directory: Path) -> Path:
    checkpoint = checkpoints.exported(recipe, directory)
    write_recipe_twin(checkpoints.SOURCE, checkpoint, directory / "recipe")
    return directory / "recipe"


def checkpoint_twin(checkpoint: Path, directory: Path) -> Path:
    write_checkpoint_twin(checkpoints.SOURCE, checkpoint, directory / "checkpoint")
    return directory / "checkpoint"


def weights(twin: Path) -> dict[str, Array]:
    return {name: t.read() for name, t in TensorFile.open(twin / "model.safetensors").items()}


def document(twin: Path, name: str = "twin.json") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((twin / name).read_text())
    return loaded


def is_of(twin: Path, checkpoint: Path) -> bool:
    source = SourceModel.open(checkpoints.SOURCE)
    return is_checkpoint_twin(twin, source, Checkpoint.open(checkpoint))


@pytest.mark.parametrize("recipe", checkpoints.RECIPES)
def test_both_twins_of_a_healthy_export_are_equal(recipe: str, tmp_path: Path) -> None:
    ours = weights(recipe_twin(recipe, tmp_path))
    theirs = weights(checkpoint_twin(tmp_path / recipe, tmp_path))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert is_of(tmp_path / "recipe", tmp_path / recipe)


@pytest.mark.parametrize("tensor", ["attention.dense.weights_scaling_factor", "mlp.proj.weight"])
def test_twins_that_differ_in_one_number_are_not_equal(tensor: str, tmp_path: Path) -> None:
    twin, checkpoint = recipe_twin("w8a16", tmp_path), tmp_path / "w8a16"

    def next_number(values: Array) -> Array:
        values.flat[5] += 1
        return values

    checkpoints.edit_tensor(checkpoint, f"transformer.layers.1.{tensor}", next_number)
    assert not is_of(twin, checkpoint)


def test_a_bias_of_zeros_that_the_source_lacks_makes_no_other_twin(tmp_path: Path) -> None:
    twin, checkpoint = recipe_twin("w8a16", tmp_path), tmp_path / "w8a16"
    inject(
        checkpoint,
        Injection(named("bias-of-zeros"), 1.0, Target("last", "mlp.proj")),
        tmp_path / "biased",
        checkpoints.SOURCE,
    )
    assert is_of(twin, tmp_path / "biased")


def test_twins_that_rotate_otherwise_are_not_equal(tmp_path: Path) -> None:
    twin, checkpoint = recipe_twin("none", tmp_path), tmp_path / "none"
    checkpoints.edit_config(checkpoint, rotary_base=None)
    assert not is_of(twin, checkpoint)


def test_twins_that_round_activations_otherwise_are_not_equal(tmp_path: Path) -> None:
    twin, path = recipe_twin("fp8", tmp_path), tmp_path / "recipe" / "twin.json"
    said = document(twin)
    next(iter(said["linears"].values()))["activation"]["scale"] *= 2
    path.write_text(json.dumps(said))
    assert not is_of(twin, tmp_path / "fp8")


@pytest.mark.parametrize("shape", [(0, 64), (100, 64), (128, 65), (64,)])
def test_a_source_that_is_not_of_its_configs_size_has_no_recipe_twin(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    source, name = checkpoints.source_copy(tmp_path), f"{LAYER}.mlp.up_proj.weight"
    checkpoints.edit_tensor(source, name, lambda _: np.zeros(shape))

    with pytest.raises(UnusableModelError, match=r"layers\.1\.mlp\.up_proj"):
        write_recipe_twin(source, checkpoints.EXPORTS / "unified_fp8", tmp_path / "twin")

    assert not (tmp_path / "twin").exists()


def _gain(scales: Array) -> Array:
    return np.asarray(scales * np.float32(1.003), dtype=np.float32)


def _next_integers(packed: Array) -> Array:
    """Moves both nibbles of the first row of bytes by one, inside their range."""
    changed = packed.copy()
    low, high = packed[0] << 4 >> 4, packed[0] >> 4
    low, high = (np.where(half > 0, half - 1, half + 1) for half in (low, high))
    changed[0] = (low & 15) | (high << 4)
    return changed


@pytest.mark.parametrize(
    ("tensor", "edit", "rows"),
    [("weights_scaling_factor", _gain, 64), ("weight", _next_integers, 2)],
)
def test_what_awq_leaves_open_hides_no_fault(
    tensor: str, edit: checkpoints.Edit, rows: int, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("w4a16_awq", tmp_path)
    checkpoints.edit_tensor(checkpoint, f"transformer.layers.1.mlp.proj.{tensor}", edit)
    write_recipe_twin(checkpoints.SOURCE, checkpoint, tmp_path / "recipe")
    name = f"{LAYER}.mlp.down_proj.weight"
    ours = weights(tmp_path / "recipe")[name]
    theirs = weights(checkpoint_twin(checkpoint, tmp_path))[name]
    assert np.any(ours != theirs, axis=1).sum() == rows


@pytest.mark.parametrize("recipe", WEIGHT_ONLY)
def test_weight_only_recipes_fold_everything(recipe: str, tmp_path: Path) -> None:
    twin = recipe_twin(recipe, tmp_path)
    assert document(twin)["linears"] == {}
    source = SourceModel.open(checkpoints.SOURCE)
    for name, values in weights(twin).items():
        original = source.rows(name)
        assert values.shape == original.shape
        assert np.linalg.norm(values - original) <= 0.25 * np.linalg.norm(original), name


@pytest.mark.parametrize(
    ("recipe", "kind", "prequant"),
    [
        ("fp8", "fp8_static", False),
        ("fp8_per_channel_per_token", "fp8_per_token", False),
        ("w8a8_sq", "int8_static", True),
        ("w8a8_sq_tp2", "int8_static", True),
        ("w4a8_awq", "fp8_static", True),
        ("nvfp4", "nvfp4", False),
    ],
)
def test_activations_are_described_for_every_linear(
    recipe: str, kind: str, prequant: object, tmp_path: Path
) -> None:
    twin = recipe_twin(recipe, tmp_path)
    linears = document(twin)["linears"]
    extra = TensorFile.open(twin / "twin_extra.safetensors")
    assert len(linears) == 14
    for name, entry in linears.items():
        assert entry["activation"]["kind"] == kind
        assert ("scale" in entry["activation"]) == (kind != "fp8_per_token")
        assert (entry["prequant"] is not None) is prequant
        if prequant:
            width = TensorFile.open(twin / "model.safetensors")[f"{name}.weight"].shape[1]
            assert extra[entry["prequant"]].shape == (width,)


def test_query_key_and_value_share_what_was_learned(tmp_path: Path) -> None:
    linears = document(recipe_twin("w8a8_sq", tmp_path))["linears"]
    entries = [linears[f"{LAYER}.self_attn.{part}_proj"] for part in "qkv"]
    assert entries[0] == entries[1] == entries[2]


@pytest.mark.parametrize(("recipe", "kind"), [("fp8", "fp8"), ("w8a8_sq", "int8")])
def test_the_cache_is_described_for_every_layer(recipe: str, kind: str, tmp_path: Path) -> None:
    cache = document(recipe_twin(recipe, tmp_path))["kv_cache"]
    assert cache["kind"] == kind
    assert set(cache["layers"]) == {"0", "1"}
    assert all(scales["k"] == scales["v"] > 0 for scales in cache["layers"].values())


@pytest.mark.parametrize("larger", ["k", "v"])
def test_the_cache_is_stored_with_the_larger_step(larger: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    for key in ("k", "v"):
        name = f"transformer.layers.1.attention.{key}_cache_scaling_factor"
        step = np.float32(0.5 if key == larger else 0.125)
        checkpoints.edit_tensor(checkpoint, name, partial(np.full_like, fill_value=step))

    write_recipe_twin(checkpoints.SOURCE, checkpoint, tmp_path / "twin")

    assert document(tmp_path / "twin")["kv_cache"]["layers"]["1"] == {"k": 0.5, "v": 0.5}


def test_an_unquantized_cache_is_not_described(tmp_path: Path) -> None:
    assert document(recipe_twin("w8a16", tmp_path))["kv_cache"] is None


def test_the_recipe_twin_does_not_see_a_damaged_weight(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    write_recipe_twin(checkpoints.SOURCE, checkpoint, tmp_path / "before")
    name = "transformer.layers.1.mlp.proj.weights_scaling_factor"
    checkpoints.edit_tensor(checkpoint, name, lambda scales: scales * 2)
    write_recipe_twin(checkpoints.SOURCE, checkpoint, tmp_path / "after")
    before, after = weights(tmp_path / "before"), weights(tmp_path / "after")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    twin = weights(checkpoint_twin(checkpoint, tmp_path))
    assert np.array_equal(twin[f"{LAYER}.mlp.down_proj.weight"],
                          2 * before[f"{LAYER}.mlp.down_proj.weight"])  # fmt: skip


def test_the_recipe_twin_rotates_as_the_source_and_the_other_as_the_checkpoint(
    tmp_path: Path,
) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(checkpoint, rotary_base=None)
    write_recipe_twin(checkpoints.SOURCE, checkpoint, tmp_path / "recipe")
    recipe = document(tmp_path / "recipe", "config.json")
    stored = document(checkpoint_twin(checkpoint, tmp_path), "config.json")
    assert recipe["rope_parameters"]["rope_theta"] == 50000.0
    assert stored["rope_parameters"]["rope_theta"] == 10000.0


def test_the_checkpoint_twin_takes_every_field_as_written(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(
        checkpoint,
        norm_epsilon=1e-3,
        num_attention_heads=8,
        head_size=8,
        num_key_value_heads=4,
        rotary_scaling={"type": "linear", "factor": 2.0},
        hidden_act="gelu",
    )
    config = document(checkpoint_twin(checkpoint, tmp_path), "config.json")
    assert config["rms_norm_eps"] == 1e-3
    assert (config["num_attention_heads"], config["head_dim"]) == (8, 8)
    assert config["rope_parameters"]["factor"] == 2.0
    assert config["hidden_act"] == "gelu"


def test_a_head_of_its_own_unties_the_twin(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)

    def double(weight: Array) -> Array:
        return weight.astype(np.float32) * 2

    checkpoints.edit_tensor(checkpoint, "lm_head.weight", double)
    twin = checkpoint_twin(checkpoint, tmp_path)
    assert document(twin, "config.json")["tie_word_embeddings"] is False
    assert "lm_head.weight" in weights(twin)


def test_padding_of_the_vocabulary_is_left_out(tmp_path: Path) -> None:
    twin = weights(recipe_twin("w4a16_awq", tmp_path))
    assert twin["model.embed_tokens.weight"].shape == (96, 64)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_tensor(
        checkpoint, "transformer.layers.0.mlp.fc.weight", lambda weight: weight[:64]
    )
    with pytest.raises(MisshapenLinearError):
        write_recipe_twin(checkpoints.SOURCE, checkpoint, tmp_path / "recipe")


def test_a_twin_of_an_old_config_keeps_its_form(tmp_path: Path) -> None:
    source, checkpoint = checkpoints.source_copy(tmp_path), checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(
        source, rope_parameters=None, rope_theta=50000.0, sliding_window=64, layer_types=["x", "y"]
    )
    checkpoints.edit_config(checkpoint, rotary_scaling={"type": "linear", "factor": 4.0})
    write_checkpoint_twin(source, checkpoint, tmp_path / "twin")
    config = document(tmp_path / "twin", "config.json")
    assert config["rope_theta"] == 50000.0
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert config["sliding_window"] is None


def test_a_partial_rotation_is_kept(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(checkpoint, rotary_pct=0.5)
    config = document(checkpoint_twin(checkpoint, tmp_path), "config.json")
    assert config["rope_parameters"]["partial_rotary_factor"] == 0.5


def test_a_shared_table_ties_the_twin(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(checkpoint, share_embedding_table=True)
    checkpoints.edit_tensors(checkpoint, lambda arrays: arrays.pop("lm_head.weight"))
    twin = checkpoint_twin(checkpoint, tmp_path)
    assert document(twin, "config.json")["tie_word_embeddings"] is True
    assert "lm_head.weight" not in weights(twin)
