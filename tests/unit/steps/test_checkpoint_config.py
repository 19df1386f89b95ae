"""A checkpoint's config is read as TensorRT-LLM reads it: as written, with its own defaults."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories.step_modules import step_module
from tests.factories.trtllm_checkpoints import checkpoint_config

Refusal = step_module("_step").Refusal
model_config = step_module("_model_config")


def _parse(**changes: Any) -> Any:  # noqa: ANN401 - step modules are not typed here
    return model_config.parse_config(checkpoint_config(**changes))


def test_a_missing_rotary_base_becomes_tensorrt_llms_default_and_is_told() -> None:
    config = _parse(rotary_base=...)

    assert config.rope.base == 10000.0
    assert "rotary_base=10000.0" in config.assumed


def test_a_written_rotary_base_is_used_and_nothing_is_assumed() -> None:
    config = _parse(rotary_base=100000)

    assert config.rope.base == 100000.0
    assert config.assumed == ()


def test_a_missing_norm_epsilon_becomes_tensorrt_llms_default() -> None:
    assert _parse(norm_epsilon=...).norm_epsilon == 1e-5


def test_a_missing_activation_becomes_gelu_not_the_models_own() -> None:
    assert _parse(hidden_act=...).activation == "gelu"


def test_key_value_heads_default_to_the_query_heads() -> None:
    assert _parse(num_key_value_heads=...).kv_heads == 4


def test_a_missing_intermediate_size_is_four_times_the_hidden_size() -> None:
    assert _parse(intermediate_size=...).intermediate == 256


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("LlamaForCausalLM", (False, False, False)),
        ("MistralForCausalLM", (False, False, False)),
        ("Qwen2ForCausalLM", (True, False, False)),
        ("Qwen3ForCausalLM", (True, False, True)),
    ],
)
def test_each_family_has_tensorrt_llms_default_biases_and_norms(
    architecture: str, expected: tuple[bool, bool, bool]
) -> None:
    config = _parse(architecture=architecture)

    assert (config.qkv_bias, config.dense_bias, config.qk_norm) == expected


def test_a_llama_with_attention_bias_has_it_on_the_output_too() -> None:
    config = _parse(attn_bias=True)

    assert (config.qkv_bias, config.dense_bias) == (True, True)


@pytest.mark.parametrize(
    ("changes", "kind", "where"),
    [
        ({"architecture": "MixtralForCausalLM"}, "unsupported-architecture", "architecture"),
        ({"hidden_act": "relu"}, "unsupported-activation", "hidden_act"),
        ({"position_embedding_type": ...}, "unsupported-position-embedding", "position_embedding"),
        ({"rotary_pct": 0.5}, "unsupported-config", "rotary_pct"),
        ({"residual_mlp": True}, "unsupported-config", "residual_mlp"),
        ({"attention_multiplier": 0.5}, "unsupported-config", "attention_multiplier"),
        ({"moe": {"num_experts": 8}}, "unsupported-config", "moe"),
        ({"mapping": {"world_size": 2}}, "unsupported-parallelism", "world_size"),
        ({"num_key_value_heads": 3}, "config-inconsistent", "num_key_value_heads"),
        ({"hidden_size": ...}, "config-field-missing", "hidden_size"),
        ({"vocab_size": ...}, "config-field-missing", "vocab_size"),
        ({"hidden_size": "64"}, "config-field-type", "hidden_size"),
        ({"norm_epsilon": True}, "config-field-type", "norm_epsilon"),
        ({"norm_epsilon": float("nan")}, "config-field-type", "norm_epsilon"),
        ({"rotary_base": 10**400}, "config-field-type", "rotary_base"),
        ({"num_hidden_layers": 10**9}, "config-inconsistent", "num_hidden_layers"),
        ({"rotary_embedding_dim": 8}, "unsupported-config", "rotary_embedding_dim"),
        ({"sliding_window": 0}, "config-inconsistent", "max_attention_window"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    changes: dict[str, Any], kind: str, where: str
) -> None:
    with pytest.raises(Refusal) as refused:
        _parse(**changes)

    assert refused.value.kind == kind
    assert where in refused.value.fields["where"]


def test_an_attention_window_repeats_over_the_layers() -> None:
    windows = _parse(runtime_defaults={"max_attention_window": [32, None]}).windows

    assert windows == (32, None)


def test_a_sliding_window_holds_for_every_layer() -> None:
    assert _parse(sliding_window=48).windows == (48, 48)


_OTHERS = ("runtime_defaults", "rotary_scaling", "moe", "sliding_window", "rotary_pct")
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([])
) | st.dictionaries(st.sampled_from(["world_size", "type", "quant_algo"]), st.integers())


@given(st.dictionaries(st.sampled_from([*checkpoint_config(), *_OTHERS]), _VALUES))
def test_a_broken_config_is_refused_never_a_crash(changes: dict[str, Any]) -> None:
    with contextlib.suppress(Refusal):
        _parse(**changes)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\ufeff{}", '"x"', "[" * 100_000, '{"hidden_size": ' + "9" * 5000 + "}"],
    ids=range(7),
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")

    with pytest.raises(Refusal) as refused:
        model_config.load_config(tmp_path)

    assert refused.value.kind == "config-unreadable"


def test_a_directory_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        model_config.load_config(tmp_path)

    assert refused.value.kind == "not-a-checkpoint"


def test_a_config_on_disk_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(checkpoint_config()), encoding="utf-8")

    assert model_config.load_config(tmp_path).hidden == 64
