"""Checkpoints in Hugging Face's format are judged by the checks of TensorRT-LLM's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from enginekeeper.errors import InputError
from enginekeeper.specs.recipes import KvCache, Recipe, RecipeName
from enginekeeper.validation.audits import audit
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.tensor_files import TensorFile
from enginekeeper.validation.twin import write_checkpoint_twin, write_recipe_twin
from tests.factories.checkpoints import EXPORTS, SOURCE, edit_tensors

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXPORTS / "unified_fp8_per_channel_per_token", tmp_path / "copied"))


def _edit(directory: Path, name: str, change: Change) -> None:
    document = json.loads((directory / name).read_text())
    change(document)
    (directory / name).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("export", "recipe", "kv_cache"),
    [
        ("unified_fp8", "fp8", "auto"),
        ("unified_fp8_kvfp8", "fp8", "fp8"),
        ("unified_fp8_per_channel_per_token", "fp8_per_channel_per_token", "auto"),
        ("unified_nvfp4", "nvfp4", "auto"),
    ],
)
def test_an_export_is_clean_and_its_linears_are_those_of_the_recipe(
    export: str, recipe: str, kv_cache: str
) -> None:
    asked = Recipe(recipe=RecipeName(recipe), kv_cache=KvCache(kv_cache))

    reports = audit(SOURCE, EXPORTS / export, asked)

    assert [(one.check, one.findings) for one in reports] == [
        ("config", ()), ("weights", ()), ("recipe", ()),
    ]  # fmt: skip


def test_its_twins_hold_the_same_numbers(tmp_path: Path) -> None:
    export = EXPORTS / "unified_fp8_kvfp8"
    write_checkpoint_twin(SOURCE, export, tmp_path / "checkpoint")
    write_recipe_twin(SOURCE, export, tmp_path / "recipe")

    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("recipe", "checkpoint"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    document = json.loads((tmp_path / "checkpoint" / "twin.json").read_text())
    assert document["kv_cache"]["kind"] == "fp8"
    assert document["linears"]["model.layers.1.mlp.up_proj"]["activation"]["kind"] == "fp8_static"


@pytest.mark.parametrize(
    ("change", "check", "where"),
    [
        (lambda c: c["rope_parameters"].update(rope_theta=10000.0), "config", "rotary_base"),
        (lambda c: c.update(rms_norm_eps=1e-6), "config", "norm_epsilon"),
        (lambda c: c.update(sliding_window=64), "config", "sliding_window"),
        (lambda c: c.update(logits_scaling=8.0), "config", "logits_scaling"),
    ],
)
def test_a_config_that_says_otherwise_than_the_source_is_found(
    change: Change, check: str, where: str, copied: Path
) -> None:
    _edit(copied, "config.json", change)

    found = [one for report in audit(SOURCE, copied) for one in report.findings]

    assert any(one.check.startswith(check) and where in f"{one.check} {one.where}" for one in found)


def test_a_weight_that_is_not_the_recipes_is_found(copied: Path) -> None:
    name = "model.layers.1.self_attn.v_proj.weight_scale"
    edit_tensors(copied, lambda tensors: tensors.update({name: tensors[name] * np.float32(1.1)}))

    (_, weights) = audit(SOURCE, copied)

    assert {one.where for one in weights.findings} == {"transformer.layers.1.attention.qkv (v)"}


def test_a_tensor_that_nobody_knows_is_found(copied: Path) -> None:
    extra = np.ones(3, np.float32)
    edit_tensors(copied, lambda tensors: tensors.update({"model.layers.0.surprise": extra}))

    (_, weights) = audit(SOURCE, copied)

    assert "surprise" in weights.findings[0].message


def test_parts_with_scales_of_their_own_are_refused(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(EXPORTS / "unified_fp8", tmp_path / "copied"))
    name = "model.layers.0.self_attn.k_proj.weight_scale"
    edit_tensors(directory, lambda tensors: tensors.update({name: tensors[name] * np.float32(2)}))

    with pytest.raises(InputError, match="multiplies at once") as caught:
        Checkpoint.open(directory)

    assert str(caught.value.where).endswith(name)


@pytest.mark.parametrize("name", ["self_attn.q_proj.input_scale", "self_attn.v_proj.weight_scale"])
def test_a_scale_that_holds_no_number_is_refused(name: str, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(EXPORTS / "unified_fp8", tmp_path / "export"))
    where = f"model.layers.0.{name}"
    edit_tensors(checkpoint, lambda tensors: tensors.update({where: np.zeros(0, np.float32)}))
    with pytest.raises(InputError, match="number"):
        Checkpoint.open(checkpoint)


def test_a_pre_quant_vector_that_nothing_promises_fails_by_name(copied: Path) -> None:
    name = "model.layers.0.mlp.down_proj.pre_quant_scale"
    edit_tensors(copied, lambda tensors: tensors.update({name: np.ones(128, np.float32)}))

    reports = audit(SOURCE, copied, None)

    assert "layers.0.mlp.proj" in str([one.findings for one in reports if one.result == "fail"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("quantization"), "no quantization block"),
        (lambda c: c["quantization"].update(exclude_modules=["*.0.self_attn.k_proj"]), "parts of"),
    ],
)
def test_a_block_that_no_server_could_follow_is_refused(
    change: Change, words: str, copied: Path
) -> None:
    _edit(copied, "hf_quant_config.json", change)

    with pytest.raises(InputError, match=words):
        Checkpoint.open(copied)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The source as it is: a checkpoint of which nothing is quantized."""
    return Path(shutil.copytree(SOURCE, tmp_path / "plain"))


def test_a_model_as_it_is_is_its_source_number_by_number(plain: Path, tmp_path: Path) -> None:
    reports = audit(SOURCE, plain, Recipe(recipe=RecipeName.NONE))

    assert [(one.check, one.findings) for one in reports] == [
        ("config", ()), ("weights", ()), ("recipe", ()),
    ]  # fmt: skip
    write_checkpoint_twin(SOURCE, plain, tmp_path / "checkpoint")
    write_recipe_twin(SOURCE, plain, tmp_path / "recipe")
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("recipe", "checkpoint"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_model_as_it_is_that_differs_in_one_tensor_fails_by_its_name(
    name: str, plain: Path
) -> None:
    def louder(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name] * tensors[name].dtype.type(2)

    edit_tensors(plain, louder)

    reports = {one.check: one for one in audit(SOURCE, plain, Recipe(recipe=RecipeName.NONE))}

    assert reports["weights"].result == "fail"
    place = {"up_proj": "layers.1.mlp.gate", "norm": "ln_f"}[name.split(".")[-2]]
    assert place in str(reports["weights"].findings)


def test_a_quantized_model_that_lost_its_file_is_not_taken_for_one_as_it_is(copied: Path) -> None:
    (copied / "hf_quant_config.json").unlink()

    with pytest.raises(InputError, match="hf_quant_config"):
        Checkpoint.open(copied)


AWQ = Recipe(recipe=RecipeName.W4A16_AWQ, group_size=32)
NORM = "model.layers.1.post_attention_layernorm.weight"


@pytest.fixture
def folded(tmp_path: Path) -> Path:
    """An export of AWQ, whose norms have taken over the vectors of what they feed."""
    return Path(shutil.copytree(EXPORTS / "unified_w4a16_awq", tmp_path / "folded"))


def test_norms_that_took_vectors_over_are_honest_with_the_linears_that_they_feed(
    folded: Path,
) -> None:
    reports = audit(SOURCE, folded, AWQ)

    assert [(one.check, one.findings) for one in reports] == [
        ("config", ()), ("weights", ()), ("recipe", ()),
    ]  # fmt: skip
    examined = {one.check: one.examined for one in reports}["weights"]
    layers = [f"transformer.layers.{layer}" for layer in (0, 1)]
    assert examined["folded_norms"] == [
        f"{layer}.{name}" for layer in layers for name in ("attention.qkv", "mlp.fc", "mlp.gate")
    ]
    assert examined["lowest_share_of_equal_codes"] > 0.99


def _of_the_source(tensors: dict[str, Any]) -> None:
    tensors[NORM] = TensorFile.open(SOURCE / "model.safetensors")[NORM].read()


def _twice(tensors: dict[str, Any]) -> None:
    own = TensorFile.open(SOURCE / "model.safetensors")[NORM].read()
    stored = tensors[NORM]
    tensors[NORM] = (stored.astype(np.float32) ** 2 / own.astype(np.float32)).astype(stored.dtype)


def _of_another_layer(tensors: dict[str, Any]) -> None:
    tensors[NORM] = tensors[NORM.replace(".1.", ".0.")]


def _one_column(tensors: dict[str, Any]) -> None:
    changed = tensors[NORM].copy()
    changed[7] = changed.dtype.type(float(changed[7]) * 1.1)
    tensors[NORM] = changed


def _nothing(tensors: dict[str, Any]) -> None:
    changed = tensors[NORM].copy()
    changed[7] = 0
    tensors[NORM] = changed


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "change", [_of_the_source, _twice, _of_another_layer, _one_column, _nothing]
)
def test_a_norm_that_is_not_folded_as_its_linears_are_fails_by_name(
    change: Change, folded: Path
) -> None:
    edit_tensors(folded, change)

    reports = {one.check: one for one in audit(SOURCE, folded, AWQ)}

    assert reports["weights"].result == "fail"
    blamed = {one.where.split(" ")[0] for one in reports["weights"].findings}
    assert blamed & {
        "transformer.layers.1.post_layernorm.weight", "transformer.layers.1.mlp.fc",
    }  # fmt: skip
    assert not any(".layers.0." in one for one in blamed)


def test_a_vector_that_no_norm_can_take_over_has_to_be_there(folded: Path) -> None:
    edit_tensors(folded, lambda it: it.pop("model.layers.0.mlp.down_proj.pre_quant_scale"))

    reports = {one.check: one for one in audit(SOURCE, folded, AWQ)}

    assert reports["config"].result == "fail"
    assert "layers.0.mlp.proj" in str(reports["config"].findings)


def test_the_twins_of_folded_norms_compute_the_same(folded: Path, tmp_path: Path) -> None:
    write_checkpoint_twin(SOURCE, folded, tmp_path / "checkpoint")
    write_recipe_twin(SOURCE, folded, tmp_path / "recipe")

    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("recipe", "checkpoint"))
    assert ours.keys() == theirs.keys()
    assert np.array_equal(ours[NORM], theirs[NORM])
    for name, weight in theirs.items():
        assert np.mean(np.isclose(ours[name], weight, rtol=1e-5)) > 0.99, name


@pytest.mark.parametrize("shape", [(63,), (65,), (0,), (), (1, 64)])
def test_a_norm_of_another_shape_fails_by_name(shape: tuple[int, ...], tmp_path: Path) -> None:
    export = Path(shutil.copytree(EXPORTS / "unified_fp8", tmp_path / "export"))
    edit_tensors(export, lambda tensors: tensors.update({NORM: np.ones(shape, np.float32)}))

    reports = {one.check: one for one in audit(SOURCE, export, None)}

    assert reports["weights"].result == "fail"
    found = [(one.where, one.message) for one in reports["weights"].findings]
    assert ("transformer.layers.1.post_layernorm.weight", "the shape differs") in found
