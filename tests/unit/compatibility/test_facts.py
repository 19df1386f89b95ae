"""What a config.json says, and what it must say."""

from __future__ import annotations

from typing import Any

import pytest

from enginekeeper.compatibility.facts import ModelFacts, model_facts
from enginekeeper.errors import InputError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
QWEN3_06B = {
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
MISTRAL_7B = {
    **LLAMA,
    "architectures": ["MistralForCausalLM"],
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
}


def test_the_small_model_is_read(smollm2: ModelFacts) -> None:
    assert smollm2.parameters == 134_515_008
    assert smollm2.linears["k_proj"] == (192, 576)
    assert smollm2.tied_embeddings


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (LLAMA, 8_030_261_248),
        (QWEN25_05B, 494_032_768),
        (QWEN3_06B, 596_049_920),
        (MISTRAL_7B, 7_248_023_552),
    ],
)
def test_parameters_are_those_of_the_published_models(
    config: dict[str, Any], published: int
) -> None:
    assert model_facts(config, "config.json").parameters == published


def test_biases_are_counted() -> None:
    plain = model_facts(LLAMA, "c").parameters
    biased = model_facts({**LLAMA, "attention_bias": True, "mlp_bias": True}, "c").parameters

    assert plain is not None
    assert biased == plain + 32 * (4096 + 2 * 1024 + 4096 + 2 * 14336 + 4096)


@pytest.mark.parametrize("field", sorted(LLAMA))
def test_a_missing_field_is_an_error_that_names_it(field: str) -> None:
    config = {name: value for name, value in LLAMA.items() if name != field}

    with pytest.raises(InputError, match=f"model/config.json: {field} is missing"):
        model_facts(config, "model/config.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "4096"),
        ("hidden_size", 0),
        ("hidden_size", True),
        ("num_hidden_layers", 32.0),
        ("tie_word_embeddings", "no"),
        ("architectures", []),
        ("architectures", "LlamaForCausalLM"),
        ("head_dim", -1),
        ("text_config", []),
        ("rope_scaling", "linear"),
        ("num_hidden_layers", 10**9),
    ],
)
def test_a_field_of_the_wrong_kind_is_an_error(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{field} is not usable"):
        model_facts({**LLAMA, field: value}, "config.json")


def test_a_head_size_is_never_guessed() -> None:
    with pytest.raises(InputError, match="head_dim is missing"):
        model_facts({**QWEN3_06B, "head_dim": None}, "config.json")
    with pytest.raises(InputError, match="does not divide hidden_size"):
        model_facts({**LLAMA, "num_attention_heads": 7}, "config.json")


def test_a_multimodal_config_is_read_from_its_text_part() -> None:
    nested = {name: value for name, value in LLAMA.items() if name != "architectures"}
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {**nested, "head_dim": 256},
    }

    facts = model_facts(config, "config.json")

    assert facts.architecture == "Gemma3ForConditionalGeneration"
    assert facts.head_dim == 256
    assert facts.parameters is None


def test_a_fault_in_the_text_part_says_where() -> None:
    config = {"architectures": ["X"], "text_config": {}, "tie_word_embeddings": True}

    with pytest.raises(InputError, match=r"text_config\.hidden_size is missing"):
        model_facts(config, "config.json")


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({}, 8192),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, 8192),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 16384),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, 32768),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 8192),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }
            },
            32768,
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                }
            },
            65536,
        ),
        ({"rope_scaling": None}, 8192),
    ],
)
def test_the_context_counts_rope_scaling(scaling: dict[str, Any], context: int) -> None:
    config = {**LLAMA, "max_position_embeddings": 8192, **scaling}

    assert model_facts(config, "config.json").context == context
