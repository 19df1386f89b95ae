"""Sizes held against published ones, and activations against what TensorRT-LLM printed."""

from __future__ import annotations

from typing import Any

import pytest

from enginekeeper.compatibility.activations import engine_beside, vllm_beside
from enginekeeper.compatibility.check import check
from enginekeeper.compatibility.estimates import (
    kv_bytes_per_rank,
    kv_bytes_per_token,
    weight_bytes,
    weight_bytes_per_rank,
)
from enginekeeper.compatibility.facts import model_facts
from enginekeeper.compatibility.memory_plan import memory_plan
from enginekeeper.errors import InputError
from tests.unit.compatibility.conftest import LLAMA_8B, MakeCase

MIB, GIB = 1 << 20, 1 << 30

LLAMA_70B = {**LLAMA_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
             "num_attention_heads": 64}  # fmt: skip
MIXTRAL_8X7B = {**LLAMA_8B, "architectures": ["MixtralForCausalLM"], "vocab_size": 32000,
                "num_local_experts": 8, "num_experts_per_tok": 2}  # fmt: skip
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "intermediate_size": 6144,
    "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "num_experts": 128,
    "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "max_position_embeddings": 40960, "tie_word_embeddings": False,
}  # fmt: skip
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "vocab_size": 129280, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
}  # fmt: skip
GEMMA3_1B = {  # says nothing of tied embeddings, as Google's own file
    "architectures": ["Gemma3ForCausalLM"], "hidden_size": 1152, "intermediate_size": 6912,
    "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "vocab_size": 262144, "max_position_embeddings": 32768, "sliding_window": 512,
}  # fmt: skip
QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True,
}  # fmt: skip
QWEN2_15B = {**QWEN25_05B, "hidden_size": 1536, "intermediate_size": 8960,
             "num_hidden_layers": 28, "num_attention_heads": 12,
             "tie_word_embeddings": False}  # fmt: skip

PUBLISHED = [
    (LLAMA_8B, 8_030_261_248),
    (LLAMA_70B, 70_553_706_496),
    (MIXTRAL_8X7B, 46_702_792_704),
    (QWEN3_30B_A3B, 30_532_122_624),
    (DEEPSEEK_V3, 671_026_419_200),  # without the layer that predicts further tokens
    (GEMMA3_1B, 999_885_952),
    (QWEN25_05B, 494_032_768),
]


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED)
def test_parameters_are_those_that_were_published(config: dict[str, Any], parameters: int) -> None:
    assert model_facts(config, "config.json").parameters == parameters


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (LLAMA_70B, 2 * 80 * 8 * 128),
        (MIXTRAL_8X7B, 2 * 32 * 8 * 128),
        (QWEN3_30B_A3B, 2 * 48 * 4 * 128),
        (DEEPSEEK_V3, 61 * (512 + 64)),  # latent attention: 70 KB and not 4 MB in 16 bits
        (GEMMA3_1B, 2 * 26 * 256),
    ],
)
def test_a_token_costs_what_its_attention_keeps(
    config: dict[str, Any], values: int, make_case: MakeCase
) -> None:
    variant, facts = make_case("h100-sxm", "none", config)

    assert kv_bytes_per_token(variant, facts.model) == 2 * values


def test_every_rank_keeps_latent_attention_whole(make_case: MakeCase) -> None:
    one, facts = make_case("h100-sxm", "none", DEEPSEEK_V3)
    eight, _ = make_case("h100-sxm", "none", DEEPSEEK_V3, parallel=[{"tensor": 8}])

    assert kv_bytes_per_rank(eight, facts.model) == kv_bytes_per_rank(one, facts.model)


def test_every_rank_has_the_routers_and_what_leads_into_latent_attention(
    make_case: MakeCase,
) -> None:
    eight, facts = make_case("h100-sxm", "none", DEEPSEEK_V3, parallel=[{"tensor": 8}])
    routers = 58 * 256 * 7168
    leading = 61 * (1536 + 512 + 64) * 7168

    whole = weight_bytes(eight, facts.model)
    least = (whole - 2 * (routers + leading)) / 8 + 2 * (routers + leading)

    assert weight_bytes_per_rank(eight, facts.model) == pytest.approx(least, rel=1e-3)


def test_ranks_share_no_copies_of_a_token_for_its_experts(make_case: MakeCase) -> None:
    eight, facts = make_case("h100-sxm", "none", MIXTRAL_8X7B, parallel=[{"tensor": 8}])
    copies, between = 2 * 2 * 4096, 3 * 2 * 14336 // 8

    found = engine_beside(eight, facts.model, 1).activations

    expected = 2 * eight.limits.max_num_tokens * (copies + between + 2 * 4096) + (32 << 20)
    assert found == expected


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED)
def test_unquantized_weights_take_two_bytes_each(
    config: dict[str, Any], parameters: int, make_case: MakeCase
) -> None:
    variant, facts = make_case("h100-sxm", "none", config)
    again = facts.model.vocab_size * facts.model.hidden_size if facts.model.tied_embeddings else 0

    assert weight_bytes(variant, facts.model) == 2 * (parameters + again)


def test_experts_are_quantized_and_routers_are_not(make_case: MakeCase) -> None:
    plain, facts = make_case("h100-sxm", "none", MIXTRAL_8X7B)
    fp8, _ = make_case("h100-sxm", "fp8", MIXTRAL_8X7B)

    saved = weight_bytes(plain, facts.model) - weight_bytes(fp8, facts.model)

    assert facts.model.parameters is not None
    assert saved == pytest.approx(facts.model.parameters, rel=0.01)
    assert saved < facts.model.parameters  # tables, norms and routers stay


def test_the_rank_with_the_experts_is_the_one_that_counts(make_case: MakeCase) -> None:
    two, facts = make_case("h100-sxm", "none", DEEPSEEK_V3, parallel=[{"pipeline": 2}])
    experts = max(block.weights for block in facts.model.blocks)
    table = 129280 * 7168

    found = weight_bytes_per_rank(two, facts.model)

    assert found == 2 * (31 * experts + table + 7168)  # of 61 layers, none of the 3 without


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        (MIXTRAL_8X7B, "num_local_experts"),
        (QWEN3_30B_A3B, "moe_intermediate_size"),
        (DEEPSEEK_V3, "kv_lora_rank"),
        (DEEPSEEK_V3, "v_head_dim"),
    ],
)
def test_a_size_that_is_missing_is_named(config: dict[str, Any], missing: str) -> None:
    without = {name: value for name, value in config.items() if name != missing}

    with pytest.raises(InputError, match=f"{missing} is missing"):
        model_facts(without, "config.json")


def test_of_an_unknown_architecture_nothing_is_guessed(make_case: MakeCase) -> None:
    variant, facts = make_case("h100-sxm", "none", {**LLAMA_8B, "architectures": ["Foo"],
                                                    "head_dim": 128})  # fmt: skip

    assert (facts.model.parameters, facts.model.blocks) == (None, ())
    assert memory_plan(variant, facts) is None


@pytest.mark.parametrize(
    ("config", "batch", "tokens", "printed"),
    [
        (QWEN25_05B, 2048, 8192, 773.51),  # NVIDIA/TensorRT-LLM issue 1188
        (QWEN25_05B, 1, 512, 43.26),
        (QWEN2_15B, 2048, 8192, 921.51),  # its INT4 computes in 16 bits as well
    ],
)
def test_the_context_memory_is_what_tensorrt_llm_printed(
    config: dict[str, Any], batch: int, tokens: int, printed: float, make_case: MakeCase
) -> None:
    limits = {"max_batch_size": batch, "max_input_len": 256, "max_seq_len": 512,
              "max_num_tokens": tokens}  # fmt: skip
    variant, facts = make_case("h100-sxm", "w8a16", config, limits=limits)

    found = engine_beside(variant, facts.model, batch)

    assert found.activations / MIB == pytest.approx(printed, abs=0.02)


def test_the_buffers_of_many_requests_are_those_that_were_printed(make_case: MakeCase) -> None:
    variant, facts = make_case("h100-sxm", "w8a16", QWEN25_05B)

    found = engine_beside(variant, facts.model, 2048)

    assert found.workspace / GIB == pytest.approx(2.66 + 5.76 + 0.75, abs=0.1)  # issue 1188


def test_activations_and_workspace_are_part_of_the_sum(make_case: MakeCase) -> None:
    plan = memory_plan(*make_case("h100-sxm", "fp8", MIXTRAL_8X7B))

    assert plan is not None
    parts = plan.weights + plan.kv_cache + plan.activations + plan.workspace + plan.rest
    assert parts == plan.memory
    assert plan.activations > 0
    assert plan.workspace > 0


def test_a_long_context_leaves_vllm_fewer_requests_than_the_spec_allows(
    make_case: MakeCase,
) -> None:
    limits = {"max_batch_size": 64, "max_input_len": 32768, "max_seq_len": 32768,
              "kv_cache_tokens": 131072}  # fmt: skip
    plan = memory_plan(*make_case("h100-sxm", "none", limits=limits))

    assert plan is not None
    assert 0 < plan.vllm_batch < 64
    assert plan.vllm_rest >= 0  # it starts all the same: its cache is what is left


def test_vllm_keeps_a_tied_table_once(make_case: MakeCase) -> None:
    tied = memory_plan(*make_case("l4", "none", QWEN25_05B))
    untied = memory_plan(*make_case("l4", "none", {**QWEN25_05B, "tie_word_embeddings": False}))

    assert tied is not None
    assert untied is not None
    assert tied.weights == untied.weights
    assert tied.vllm_rest - untied.vllm_rest == 2 * 151936 * 896


def test_stages_of_vllm_have_one_table_each_tied_or_not(make_case: MakeCase) -> None:
    stages = [{"pipeline": 2}]
    untied = {**QWEN25_05B, "tie_word_embeddings": False}

    plans = [memory_plan(*make_case("l4", "none", it, parallel=stages))
             for it in (QWEN25_05B, untied)]  # fmt: skip

    assert plans[0] == plans[1]
    assert plans[0] is not None


def test_what_fits_by_weights_and_cache_alone_is_warned_of(make_case: MakeCase) -> None:
    limits = {"max_batch_size": 2048, "max_input_len": 64, "max_seq_len": 64,
              "kv_cache_tokens": 65536}  # fmt: skip
    variant, facts = make_case("l4", "w8a16", limits=limits)

    hits = {hit.rule: hit for hit in check(variant, facts)}

    assert "model-fits-memory" not in hits
    assert hits["activations-fit-memory"].severity == "warn"


def test_vllm_needs_no_decoder_of_its_own(make_case: MakeCase) -> None:
    variant, facts = make_case("h100-sxm", "none")

    ours = engine_beside(variant, facts.model, 256).workspace
    theirs = vllm_beside(variant, facts.model, 256).workspace

    assert theirs < ours
