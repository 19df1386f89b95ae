"""The config names the algorithm, the algorithm names the tensors, and the file has them or not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories.step_modules import step_module
from tests.factories.trtllm_checkpoints import (
    Index,
    checkpoint_config,
    plain_index,
    quantization,
    quantized_index,
)

Refusal = step_module("_step").Refusal
TensorEntry = step_module("_tensor_index").TensorEntry
layer_plan = step_module("_layer_plan")
parse_config = step_module("_model_config").parse_config

INT8 = {"weight": ("I8", "O,I"), "weights_scaling_factor": ("F32", "O")}
STATIC = {"activation_scaling_factor": ("F32", "1")}
PREQUANT = {"prequant_scaling_factor": ("BF16", "I")}
INT4 = {"weight": ("I8", "O/2,I"), "weights_scaling_factor": ("F32", "O,G")}
RECIPES: dict[str, dict[str, tuple[str, str]]] = {
    "W8A16": INT8,
    "FP8": {"weight": ("F8_E4M3", "O,I"), "weights_scaling_factor": ("F32", "1"), **STATIC},
    "FP8_PER_CHANNEL_PER_TOKEN": {
        "weight": ("F8_E4M3", "O,I"),
        "per_channel_scale": ("F32", "O"),
    },
    "W8A8_SQ_PER_CHANNEL": {**INT8, **STATIC, **PREQUANT},
    "W4A16_AWQ": {**INT4, **PREQUANT},
    "W4A8_AWQ": {**INT4, **STATIC, **PREQUANT, "weights_scaling_factor_2": ("F32", "1")},
    "NVFP4": {
        "weight": ("U8", "O,I/2"),
        "weights_scaling_factor": ("F8_E4M3", "O,G"),
        "weights_scaling_factor_2": ("F32", ""),
        "activation_scaling_factor": ("F32", ""),
    },
}
"""As ModelOpt 0.47 exports them; groups are 16 here."""


def _plan(index: Index, **changes: Any) -> Any:  # noqa: ANN401 - step modules are not typed here
    entries = {name: TensorEntry(*entry) for name, entry in index.items()}
    return layer_plan.plan_engine(parse_config(checkpoint_config(**changes)), entries)


def _refused(index: Index, **changes: Any) -> Any:  # noqa: ANN401
    with pytest.raises(Refusal) as refused:
        _plan(index, **changes)
    return refused.value


def _recipe(algorithm: str) -> dict[str, Any]:
    return quantization(algorithm, group_size=16, pre_quant_scale="AWQ" in algorithm)


def test_an_unquantized_checkpoint_has_one_layer_signature() -> None:
    plan = _plan(plain_index())

    assert len(plan.layers) == 2
    assert plan.layers[0].signature == plan.layers[1].signature
    assert plan.unread == ()


@pytest.mark.parametrize("algorithm", RECIPES)
def test_every_recipe_reads_every_tensor_it_exports(algorithm: str) -> None:
    plan = _plan(quantized_index(RECIPES[algorithm]), quantization=_recipe(algorithm))

    assert plan.unread == ()
    assert (
        plan.layers[0]
        .signature["linears"]["qkv"]["tensors"]["weight"]
        .startswith(RECIPES[algorithm]["weight"][0])
    )


@pytest.mark.parametrize(
    ("algorithm", "role"), [(name, role) for name, roles in RECIPES.items() for role in roles]
)
def test_every_tensor_of_every_recipe_is_required(algorithm: str, role: str) -> None:
    index = quantized_index(RECIPES[algorithm])
    name = f"transformer.layers.1.mlp.fc.{role}"
    del index[name]

    refusal = _refused(index, quantization=_recipe(algorithm))

    assert refusal.kind == "missing-tensor"
    assert refusal.fields["where"] == name


@pytest.mark.parametrize("algorithm", RECIPES)
def test_no_recipe_reads_the_weights_of_another(algorithm: str) -> None:
    refusal = _refused(plain_index(), quantization=_recipe(algorithm))

    assert refusal.kind in {"missing-tensor", "tensor-mismatch"}


def test_a_promised_pre_quant_scale_that_is_absent_is_named() -> None:
    refusal = _refused(
        quantized_index(INT4),
        quantization=quantization("W4A16_AWQ", group_size=16, pre_quant_scale=True),
    )

    assert refusal.kind == "missing-tensor"
    assert refusal.fields["where"] == "transformer.layers.0.attention.qkv.prequant_scaling_factor"
    assert "pre_quant_scale" in refusal.fields["remedy"]


def test_without_the_promise_the_same_tensors_are_an_engine() -> None:
    plan = _plan(quantized_index(INT4), quantization=quantization("W4A16_AWQ", group_size=16))

    assert plan.layers[0].linears["fc"].layout.group_size == 16


def test_a_tensor_that_nothing_reads_is_reported() -> None:
    index = plain_index() | {"transformer.layers.0.attention.qkv.bias": ("BF16", (128,))}

    assert _plan(index).unread == ("transformer.layers.0.attention.qkv.bias",)


def test_a_bias_the_config_promises_is_required() -> None:
    refusal = _refused(plain_index(), attn_bias=True)

    assert refusal.fields["where"] == "transformer.layers.0.attention.qkv.bias"
    assert "attn_bias" in refusal.fields["remedy"]


def test_a_qwen3_whose_config_is_silent_about_biases_is_refused_as_by_tensorrt_llm() -> None:
    index = plain_index() | {
        f"transformer.layers.{layer}.attention.{part}_layernorm.weight": ("BF16", (16,))
        for layer in range(2)
        for part in "qk"
    }

    refusal = _refused(index, architecture="Qwen3ForCausalLM")

    assert refusal.fields["where"] == "transformer.layers.0.attention.qkv.bias"
    assert _plan(index, architecture="Qwen3ForCausalLM", attn_bias=False).unread == ()


def test_an_absent_head_is_the_embedding() -> None:
    index = plain_index()
    del index["lm_head.weight"]

    plan = _plan(index)

    assert plan.head.linears["output"].tensors == (
        ("weight", "transformer.vocab_embedding.weight"),
    )


def test_a_shared_table_leaves_a_separate_head_unread() -> None:
    assert _plan(plain_index(), share_embedding_table=True).unread == ("lm_head.weight",)


def test_a_shape_that_is_not_the_configs_is_refused_with_both() -> None:
    refusal = _refused(plain_index(), intermediate_size=256)

    assert refusal.kind == "tensor-mismatch"
    assert "256" in refusal.fields["expected"]
    assert "128" in refusal.fields["actual"]


def test_a_wrong_vocabulary_is_refused() -> None:
    assert _refused(plain_index(), vocab_size=97).kind == "tensor-mismatch"


def test_a_group_size_that_does_not_divide_is_refused() -> None:
    wrong = quantization("W4A16_AWQ", group_size=48)

    assert _refused(quantized_index(INT4), quantization=wrong).kind == "group-size"


@pytest.mark.parametrize("algorithm", ["W4A8_QSERVE_PER_GROUP", "MIXED_PRECISION", "FP9"])
def test_an_algorithm_that_is_not_implemented_is_refused_by_name(algorithm: str) -> None:
    refusal = _refused(plain_index(), quantization=quantization(algorithm))

    assert refusal.kind == "unsupported-quantization"
    assert algorithm in str(refusal)


def test_a_zero_point_is_refused() -> None:
    wrong = quantization("W4A16_AWQ", group_size=16, has_zero_point=True)

    assert _refused(quantized_index(INT4), quantization=wrong).kind == "unsupported-quantization"


def test_an_unknown_kv_cache_is_refused() -> None:
    wrong = quantization(None, kv_cache_quant_algo="NVFP4")

    assert _refused(plain_index(), quantization=wrong).kind == "unsupported-quantization"


def test_an_excluded_module_keeps_its_own_precision() -> None:
    index = quantized_index(INT8)
    for role in INT8:
        del index[f"transformer.layers.0.mlp.proj.{role}"]
    index["transformer.layers.0.mlp.proj.weight"] = ("BF16", (64, 128))
    excluded = {"exclude_modules": ["*lm_head", "*.0.mlp.proj"]}

    plan = _plan(index, quantization=quantization("W8A16", **excluded))

    assert plan.layers[0].signature != plan.layers[1].signature
    assert plan.layers[0].linears["proj"].layout.weight == "plain"


def test_without_a_list_the_head_is_left_alone_as_tensorrt_llm_does() -> None:
    plan = _plan(quantized_index(INT8), quantization={"quant_algo": "W8A16"})

    assert plan.head.linears["output"].layout.weight == "plain"


def _kv_index(*roles: str) -> Index:
    return plain_index() | {
        f"transformer.layers.{layer}.attention.{role}_cache_scaling_factor": ("F32", (1,))
        for layer in range(2)
        for role in roles
    }


@pytest.mark.parametrize(
    ("present", "read"),
    [
        (("k", "v", "kv"), ["k_scale", "v_scale"]),
        (("k", "v"), ["k_scale", "v_scale"]),
        (("kv",), ["kv_scale"]),
    ],
)
def test_the_scales_of_a_quantized_cache_are_read(
    present: tuple[str, ...], read: list[str]
) -> None:
    recipe = quantization(None, kv_cache_quant_algo="FP8")
    plan = _plan(_kv_index(*present), quantization=recipe)

    assert [role for role, _ in plan.layers[0].vectors if role.endswith("scale")] == read
    assert plan.unread == ()


@pytest.mark.parametrize("present", [(), ("k",), ("v",)])
def test_a_quantized_cache_without_its_scales_is_refused(present: tuple[str, ...]) -> None:
    refusal = _refused(
        _kv_index(*present), quantization=quantization(None, kv_cache_quant_algo="INT8")
    )

    assert refusal.kind == "missing-tensor"


def test_a_graphs_name_follows_its_shape_recipe_and_compiler() -> None:
    digest = layer_plan.signature_digest
    plain = _plan(plain_index()).layers[0].signature
    int8 = _plan(quantized_index(INT8), quantization=quantization("W8A16")).layers[0].signature
    here, there = {"torch": "2.13.0", "isa": "avx512"}, {"torch": "2.13.0", "isa": "avx2"}

    assert digest(plain, here) == digest(plain, dict(here))
    assert len({digest(plain, here), digest(int8, here), digest(plain, there)}) == 3


def test_a_graphs_name_does_not_follow_the_numbers() -> None:
    one, other = _plan(plain_index()), _plan(plain_index(), norm_epsilon=1e-6, rotary_base=1e4)

    assert one.layers[0].signature == other.layers[0].signature
