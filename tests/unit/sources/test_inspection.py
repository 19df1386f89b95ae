from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from enginekeeper.errors import InputError
from enginekeeper.sources import inspection
from enginekeeper.sources.inspection import inspect_model
from enginekeeper.sources.layout import INDEX
from enginekeeper.sources.model_directory import ModelDirectory

MakeModel = Callable[..., Path]

LAYER = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
)  # fmt: skip


def _edit(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def _inspect(model: Path) -> ModelDirectory:
    return inspect_model(model, model.parent / "memory")


@pytest.mark.parametrize("sharded", [False, True])
def test_a_whole_model_passes(make_model: MakeModel, *, sharded: bool) -> None:
    model = _inspect(make_model(sharded=sharded))

    assert str(model.digest).startswith("ek-model-v1:")
    assert model.facts_path.name == "config.json"
    assert (INDEX in [file.name for file in model.files]) is sharded


def test_the_digest_is_that_of_the_content_not_of_the_place(make_model: MakeModel) -> None:
    first = make_model()
    second = shutil.copytree(first, first.with_name("copy"))
    (second / "README.md").write_text("not part of the model")

    assert _inspect(first).digest == _inspect(second).digest


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_every_part_of_the_model_is_in_the_digest(make_model: MakeModel, name: str) -> None:
    model = make_model()
    before = _inspect(model).digest
    if name == "model.safetensors":
        path = model / name
        data = bytearray(path.read_bytes())
        data[-2] ^= 1  # the last bit of the last weight's mantissa
        path.write_bytes(data)
    else:
        _edit(model / name, changed=1)

    assert _inspect(model).digest != before


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json", "vocab.txt", "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
    ],
)  # fmt: skip
def test_what_serves_the_model_is_in_the_digest_under_its_path(
    make_model: MakeModel, name: str
) -> None:
    model = make_model()
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("{}")
    before = _inspect(model)
    (model / name).write_text('{"eos_token_id": 2}')

    after = _inspect(model)

    assert name in [file.name for file in before.files]
    assert after.digest != before.digest


def test_folders_besides_that_of_templates_are_no_part_of_the_model(make_model: MakeModel) -> None:
    model = make_model()
    before = _inspect(model)
    for name in ("onnx/chat_template.jinja", "additional_chat_templates/README.md"):
        (model / name).parent.mkdir()
        (model / name).write_text("another format")

    assert _inspect(model).files == before.files


def test_a_generation_config_that_is_no_object_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    (model / "generation_config.json").write_text("[2]")

    with pytest.raises(InputError, match=r"generation_config\.json"):
        _inspect(model)


def test_an_unchanged_model_is_not_read_again(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    first = _inspect(model)
    monkeypatch.setattr(inspection, "_inspect", lambda _: pytest.fail("it was read again"))

    assert _inspect(model) == first


def test_a_change_that_keeps_size_and_time_is_seen(make_model: MakeModel) -> None:
    model = make_model()
    before = _inspect(model).digest
    path = model / "model.safetensors"
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert _inspect(model).digest != before


def test_a_damaged_memory_is_no_memory(make_model: MakeModel) -> None:
    model = make_model()
    first = _inspect(model)
    for path in (model.parent / "memory").iterdir():
        path.write_text("{")

    assert _inspect(model) == first


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("config.json", r"config\.json: the file is missing"),
        ("tokenizer.json", "tokenizer is missing"),
        ("model-2.safetensors", r"model-2\.safetensors: the file cannot be read"),
        (INDEX, "no safetensors weights"),
    ],
)
def test_a_missing_file_is_named(make_model: MakeModel, name: str, complaint: str) -> None:
    model = make_model(sharded=True)
    (model / name).unlink()

    with pytest.raises(InputError, match=complaint):
        _inspect(model)


def test_a_shard_cut_short_is_named(make_model: MakeModel) -> None:
    model = make_model(sharded=True)
    shard = model / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])

    with pytest.raises(InputError, match=r"model-1\.safetensors: the file is cut short"):
        _inspect(model)


def test_nan_weights_are_named(make_model: MakeModel) -> None:
    model = make_model()
    name = "model.layers.1.input_layernorm.weight"
    _edit_tensors(model, **{name: np.array([1, np.nan, np.nan, 1], np.float32)})

    with pytest.raises(InputError, match=f"2 of 4 weights of {name}"):
        _inspect(model)


def test_a_tokenizer_much_smaller_than_the_embedding_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    _edit(model / "tokenizer.json", model={"vocab": {"a": 0, "b": 1}})

    with pytest.raises(InputError, match="most of the embedding is for other tokens"):
        _inspect(model)


def test_a_tokenizer_larger_than_the_embedding_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    added = [{"id": 8, "content": "<pad>"}]
    _edit(model / "tokenizer.json", added_tokens=added)

    with pytest.raises(InputError, match="does not fit") as caught:
        _inspect(model)

    assert caught.value.actual == "id 8 ('<pad>')"
    assert "ids below 8" in str(caught.value.expected)


@pytest.mark.parametrize("changes", [{"model": {}}, {"added_tokens": [1]}, {"model": {"vocab": 1}}])
def test_a_tokenizer_that_is_not_one_is_refused(
    make_model: MakeModel, changes: dict[str, Any]
) -> None:
    model = make_model()
    _edit(model / "tokenizer.json", **changes)

    with pytest.raises(InputError, match=r"tokenizer\.json"):
        _inspect(model)


def test_unigram_vocabularies_count_by_position(make_model: MakeModel) -> None:
    model = make_model()
    _edit(model / "tokenizer.json", model={"vocab": [["t", 0.0]] * 9})

    with pytest.raises(InputError, match="does not fit"):
        _inspect(model)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"vocab_size": 9}, "another shape"),
        ({"hidden_size": 5}, "another shape"),
        ({"num_hidden_layers": 3}, "layer 2 are missing"),
        ({"num_hidden_layers": 1}, "layer 1 are one too many"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is not usable"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"intermediate_size": 999}, r"gate_proj\.weight has another shape"),
        ({"num_key_value_heads": 2}, r"k_proj\.weight has another shape"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "cannot be shared out"),
        ({"head_dim": 4}, r"q_proj\.weight has another shape"),
        ({"attention_bias": True}, r"no tensor model\.layers\.0\.self_attn\.q_proj\.bias"),
        ({"mlp_bias": True}, r"no tensor model\.layers\.0\.mlp\.gate_proj\.bias"),
        ({"architectures": ["Qwen2ForCausalLM"]}, r"self_attn\.q_proj\.bias"),
        ({"architectures": ["Qwen3ForCausalLM"]}, r"self_attn\.q_norm\.weight"),
        ({"architectures": ["OtherForCausalLM"], "hidden_size": 5}, "another shape"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight"),
    ],
)
def test_weights_of_another_model_than_the_config_says_are_refused(
    make_model: MakeModel, config: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        _inspect(make_model(**config))


def _edit_tensors(model: Path, **changes: NDArray[Any] | None) -> None:
    """Replaces tensors; None removes one."""
    tensors = {**load_file(model / "model.safetensors"), **changes}
    save_file({n: t for n, t in tensors.items() if t is not None}, model / "model.safetensors")


@pytest.mark.parametrize("name", [*LAYER])
def test_every_tensor_of_a_layer_is_needed_in_its_shape(make_model: MakeModel, name: str) -> None:
    whole, tensor = make_model(), f"model.layers.1.{name}.weight"
    for change, complaint in ((None, "no tensor"), (np.ones(100, np.float32), "another shape")):
        model = shutil.copytree(whole, whole.with_name(str(complaint)))
        _edit_tensors(model, **{tensor: change})

        with pytest.raises(InputError, match=complaint) as caught:
            _inspect(model)

        assert tensor in str(caught.value)


@pytest.mark.parametrize("name", ["mlp.up_proj.bias", "self_attn.q_norm.weight"])
def test_what_one_layer_has_all_must_have(make_model: MakeModel, name: str) -> None:
    model = make_model()
    size = 6 if "mlp" in name else 2
    _edit_tensors(model, **{f"model.layers.0.{name}": np.ones(size, np.float32)})

    with pytest.raises(InputError, match=rf"no tensor model\.layers\.1\.{name}"):
        _inspect(model)


def test_biases_in_all_layers_pass(make_model: MakeModel) -> None:
    model = make_model()
    one = np.ones(6, np.float32)
    _edit_tensors(model, **{f"model.layers.{n}.mlp.up_proj.bias": one for n in range(2)})

    assert _inspect(model).path == model


def test_a_negative_token_id_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    _edit(model / "tokenizer.json", model={"vocab": {"a": 0, "b": -1}})

    with pytest.raises(InputError, match="negative id") as caught:
        _inspect(model)

    assert caught.value.actual == "id -1 ('b')"


def test_a_config_that_is_not_json_is_named_with_its_line(make_model: MakeModel) -> None:
    model = make_model()
    (model / "config.json").write_text('{\n"vocab_size": }')

    with pytest.raises(InputError, match=r"config\.json:2: not JSON"):
        _inspect(model)


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, "\udcff"])
def test_a_config_of_any_other_kind_is_refused(make_model: MakeModel, text: str) -> None:
    model = make_model()
    (model / "config.json").write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(InputError, match=r"config\.json"):
        _inspect(model)


def _weight_map(model: Path) -> dict[str, str]:
    weight_map: dict[str, str] = json.loads((model / INDEX).read_text())["weight_map"]
    return weight_map


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", ".."]
)
def test_an_index_cannot_name_files_outside_the_directory(make_model: MakeModel, name: str) -> None:
    model = make_model(sharded=True)
    _edit(model / INDEX, weight_map={**_weight_map(model), "model.norm.weight": name})

    with pytest.raises(InputError, match="not the name of a shard"):
        _inspect(model)


def test_an_index_that_promises_a_tensor_too_many_is_refused(make_model: MakeModel) -> None:
    model = make_model(sharded=True)
    _edit(model / INDEX, weight_map={**_weight_map(model), "x": "model-1.safetensors"})

    with pytest.raises(InputError, match="does not have it"):
        _inspect(model)


def test_a_tensor_that_the_index_does_not_name_is_refused(make_model: MakeModel) -> None:
    model = make_model(sharded=True)
    listed = _weight_map(model)
    del listed["model.norm.weight"]
    _edit(model / INDEX, weight_map=listed)

    with pytest.raises(InputError, match=r"holds model\.norm\.weight"):
        _inspect(model)


def test_a_weight_file_that_no_index_names_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    save_file({"w": np.ones(1, np.float32)}, model / "adapter.safetensors")

    with pytest.raises(InputError, match="index does not name"):
        _inspect(model)


def test_pickles_are_refused_with_the_reason(make_model: MakeModel) -> None:
    model = make_model()
    (model / "model.safetensors").rename(model / "pytorch_model.bin")

    with pytest.raises(InputError, match="pickles are not read"):
        _inspect(model)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        inspect_model(tmp_path / "gone", tmp_path)
