"""Variants and facts to judge: a 135M model, an 8B model, and any GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from enginekeeper.compatibility.facts import Facts, ModelFacts, facts_of, model_facts
from enginekeeper.specs.loader import parse_spec
from enginekeeper.specs.matrix import expand
from enginekeeper.specs.variants import Variant

Case: TypeAlias = tuple[Variant, Facts]
MakeCase: TypeAlias = Callable[..., Case]

SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": 64,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA_8B: dict[str, Any] = {
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


@pytest.fixture
def smollm2() -> ModelFacts:
    return model_facts(SMOLLM2, "config.json")


@pytest.fixture
def make_case() -> MakeCase:
    """Returns a variant of one target and one recipe, with its facts; an 8B model by default."""

    def make(target: Any, recipe: Any, config: Any = None, **fields: Any) -> Case:  # noqa: ANN401 - file's form
        on_cpu = target == "cpu"
        form = {
            "model": {"name": "m", "path": "x"},
            "targets": [target],
            "recipes": [recipe],
            "toolchain": "inductor" if on_cpu else "tensorrt-llm-1.2.1",
            **fields,
        }
        (variant,) = expand(parse_spec(json.dumps(form).encode(), "spec.yaml"))
        return variant, facts_of(variant, model_facts(config or LLAMA_8B, "config.json"))

    return make
