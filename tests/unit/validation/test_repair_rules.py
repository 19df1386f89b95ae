"""Each rule on the fault it is for, and on everything it must keep its hands off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.configs.trtllm import TrtConfig
from enginekeeper.validation import repair_rules
from enginekeeper.validation.repair_rules import RULES, Evidence, Rule
from enginekeeper.validation.rope import checkpoint_rope, expected_parameters, source_rope

LLAMA = {"architecture": "LlamaForCausalLM"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
INT4 = {"quant_algo": "W4A16_AWQ", "group_size": 64, "pre_quant_scale": True}
SIZES = dict.fromkeys(
    (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    ),
    1,
)
QKV = "transformer.layers.0.attention.qkv"


def evidence(source: Mapping[str, Any], config: Mapping[str, Any], *tensors: str) -> Evidence:
    return Evidence(source, config, frozenset(tensors))


@pytest.mark.parametrize(
    "source",
    [
        {"rope_theta": 100000.0},
        {"rope_theta": 100000},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
        {"rope_theta": 100000.0, "rope_parameters": {"rope_theta": 100000}},
    ],
    ids=["transformers-4", "an-integer", "transformers-5", "both-agreeing"],
)
def test_a_missing_rotary_base_becomes_what_the_source_states(source: dict[str, Any]) -> None:
    repair = repair_rules.rotary_base(evidence(source, LLAMA))
    assert repair is not None
    assert (repair.rule, repair.path) == ("rotary-base", ("rotary_base",))
    assert (repair.was, repair.now) == (None, 100000.0)
    assert "10000" in repair.reason


def test_a_wrong_rotary_base_is_repaired_and_what_it_was_is_kept() -> None:
    repair = repair_rules.rotary_base(
        evidence({"rope_theta": 500000.0}, {**LLAMA, "rotary_base": 10000.0})
    )
    assert repair is not None
    assert (repair.was, repair.now) == (10000.0, 500000.0)


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ({}, {}),
        ({"rope_theta": None}, {"rotary_base": 10000.0}),
        ({"rope_theta": 100000.0, "rope_parameters": {"rope_theta": 500000.0}}, {}),
        ({"rope_parameters": {"full": {"rope_theta": 1e6}, "sliding": {"rope_theta": 1e4}}}, {}),
        ({"rope_theta": True}, {}),
        ({"rope_theta": 0}, {}),
        ({"rope_theta": "100000"}, {}),
        ({"rope_theta": 10000.0}, {}),
        ({"rope_theta": 100000.0}, {"rotary_base": 100000}),
        ({"rope_theta": 100000.0}, {"rotary_base": 100000.0078125}),
    ],
    ids=[
        "nothing-stated",
        "null",
        "two-values",
        "one-for-each-kind-of-layer",
        "a-flag",
        "zero",
        "text",
        "the-default-is-right",
        "already-right",
        "right-in-float32",
    ],
)
def test_a_base_that_is_right_or_not_certain_is_left_alone(
    source: dict[str, Any], config: dict[str, Any]
) -> None:
    assert repair_rules.rotary_base(evidence(source, config)) is None


@pytest.mark.parametrize(
    ("source", "now"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, [64]),
        ({"model_type": "mistral"}, [4096]),
        (
            {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True,
             "max_window_layers": 1},
            [8192, 64],
        ),
    ],
    ids=["mistral", "by-default", "qwen2"],
)  # fmt: skip
def test_a_missing_window_is_written_for_every_layer(
    source: dict[str, Any], now: list[int]
) -> None:
    sizes = {**SIZES, "num_hidden_layers": 2, "max_position_embeddings": 8192}
    repair = repair_rules.attention_window(evidence({**sizes, **source}, LLAMA))
    assert repair is not None
    assert (repair.rule, repair.path) == ("attention-window", ("runtime_defaults",))
    assert (repair.was, repair.now) == (None, {"max_attention_window": now})


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ({"model_type": "mistral", "sliding_window": None}, {}),
        ({"model_type": "mistral", "sliding_window": 8192}, {}),
        ({"model_type": "qwen2", "sliding_window": 64}, {}),
        ({"model_type": "llama"}, {}),
        ({"model_type": "mistral"}, {"runtime_defaults": {"max_attention_window": [1]}}),
        ({"model_type": "mistral"}, {"sliding_window": 4096}),
        ({"model_type": "mistral", "hidden_size": "broad"}, {}),
        ({"model_type": "mistral", "max_position_embeddings": None}, {}),
    ],
)
def test_a_window_that_is_none_or_is_stated_is_left_alone(
    source: dict[str, Any], config: dict[str, Any]
) -> None:
    sizes = {**SIZES, "max_position_embeddings": 8192}
    assert repair_rules.attention_window(evidence({**sizes, **source}, config)) is None


@pytest.mark.parametrize(
    "source",
    [{"rope_scaling": LLAMA3}, {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}],
    ids=["transformers-4", "transformers-5"],
)
def test_a_missing_scaling_is_written_as_tensorrt_llm_reads_it(source: dict[str, Any]) -> None:
    repair = repair_rules.rotary_scaling(evidence(source, LLAMA))
    assert repair is not None
    read_back = checkpoint_rope(
        TrtConfig.of({"num_hidden_layers": 1, "rotary_scaling": repair.now}, "config.json")
    )
    assert read_back.kind == "llama3"
    stated = HfConfig.of({**SIZES, **source}, "config.json")
    assert dict(read_back.parameters) == expected_parameters(source_rope(stated))


@pytest.mark.parametrize(
    ("scaling", "config"),
    [
        ({**LLAMA3, "factor": None}, {}),
        ({k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}, {}),
        ({"rope_type": "yarn", "factor": 4.0}, {}),
        ({"rope_type": "default"}, {}),
        (LLAMA3, {"rotary_scaling": {"type": "linear", "factor": 2.0}}),
    ],
    ids=["a-parameter-is-null", "one-is-missing", "another-kind", "none", "something-is-there"],
)
def test_a_scaling_that_is_not_fully_stated_is_left_to_the_audit(
    scaling: dict[str, Any], config: dict[str, Any]
) -> None:
    assert repair_rules.rotary_scaling(evidence({"rope_scaling": scaling}, config)) is None


def test_a_promise_of_prequant_scales_without_any_is_withdrawn() -> None:
    repair = repair_rules.promised_prequant(
        evidence({}, {"quantization": INT4}, f"{QKV}.weight", f"{QKV}.weights_scaling_factor")
    )
    assert repair is not None
    assert repair.path == ("quantization", "pre_quant_scale")
    assert (repair.was, repair.now) == (True, False)


@pytest.mark.parametrize(
    ("block", "tensors"),
    [
        (INT4, (f"{QKV}.prequant_scaling_factor",)),
        ({**INT4, "quant_algo": "W4A8_AWQ"}, ()),
        ({**INT4, "pre_quant_scale": False}, ()),
        ({"quant_algo": "W8A16"}, ()),
        (None, ()),
    ],
    ids=["real-awq", "w4a8-needs-them", "not-promised", "another-recipe", "no-block"],
)
def test_a_promise_that_is_kept_or_needed_stays(block: object, tensors: tuple[str, ...]) -> None:
    assert repair_rules.promised_prequant(evidence({}, {"quantization": block}, *tensors)) is None


@pytest.mark.parametrize(
    ("rule", "source", "architecture", "tensors", "field", "now"),
    [
        (
            repair_rules.attention_bias,
            {"attention_bias": True},
            "LlamaForCausalLM",
            (f"{QKV}.bias",),
            "attn_bias",
            True,
        ),
        (
            repair_rules.attention_bias,
            {"attention_bias": False},
            "Qwen3ForCausalLM",
            (f"{QKV}.weight",),
            "attn_bias",
            False,
        ),
        (
            repair_rules.mlp_bias,
            {"mlp_bias": True},
            "LlamaForCausalLM",
            ("transformer.layers.0.mlp.fc.bias",),
            "mlp_bias",
            True,
        ),
        (
            repair_rules.qwen_type,
            {"model_type": "qwen2"},
            "Qwen2ForCausalLM",
            (),
            "qwen_type",
            "qwen2",
        ),
    ],
    ids=["llama-attention", "qwen3-attention", "llama-mlp", "qwen-type"],
)
def test_a_missing_flag_is_copied_from_the_source(  # noqa: PLR0917 - a table
    rule: Rule,
    source: dict[str, Any],
    architecture: str,
    tensors: tuple[str, ...],
    field: str,
    now: object,
) -> None:
    config = {"architecture": architecture}
    repair = rule(evidence(source, config, *tensors))
    assert repair is not None
    assert (repair.path, repair.was, repair.now) == ((field,), None, now)
    assert rule(evidence(source, {**config, field: "stated"}, *tensors)) is None
    assert rule(evidence({}, config, *tensors)) is None


@pytest.mark.parametrize("stated", [True, False])
def test_a_bias_the_tensors_contradict_is_left_to_the_audit(*, stated: bool) -> None:
    architecture = "LlamaForCausalLM" if stated else "Qwen3ForCausalLM"
    tensors = () if stated else (f"{QKV}.bias",)
    found = evidence({"attention_bias": stated}, {"architecture": architecture}, *tensors)
    assert repair_rules.attention_bias(found) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["rope_theta", "rope_type", "factor", "x"]), inner)
    ),
    max_leaves=6,
)
SOURCES = st.dictionaries(
    st.sampled_from(
        [
            "rope_theta",
            "rope_parameters",
            "rope_scaling",
            "attention_bias",
            "mlp_bias",
            "model_type",
        ]
    ),
    JSON_VALUES,
)
CONFIGS = st.dictionaries(
    st.sampled_from(["rotary_base", "rotary_scaling", "quantization", "attn_bias"]), JSON_VALUES
)
ARCHITECTURES = st.sampled_from(["LlamaForCausalLM", "Qwen3ForCausalLM", "Other"])


@given(source=SOURCES, config=CONFIGS, architecture=ARCHITECTURES)
def test_any_json_is_judged_without_a_traceback_and_a_repair_is_strict_json(
    source: dict[str, Any], config: dict[str, Any], architecture: str
) -> None:
    found = evidence(source, {**config, "architecture": architecture}, "a.weight")
    for rule in RULES:
        repair = rule(found)
        if repair is not None:
            json.dumps(repair.now, allow_nan=False)
            assert repair.now != repair.was


@given(theta=st.floats(1e2, 1e9), base=st.none() | st.floats(1e2, 1e9))
def test_after_its_repair_a_rule_finds_nothing_more(theta: float, base: float | None) -> None:
    config = {**LLAMA, "rotary_base": base}
    repair = repair_rules.rotary_base(evidence({"rope_theta": theta}, config))
    if repair is not None:
        config["rotary_base"] = repair.now
    assert repair_rules.rotary_base(evidence({"rope_theta": theta}, config)) is None
