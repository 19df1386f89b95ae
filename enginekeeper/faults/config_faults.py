"""Faults of `config.json`: a field that changes the mathematics, wrong or not there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from enginekeeper.faults.draft import Draft, InapplicableError, layer_name
from enginekeeper.faults.fault import Edit, Fault, Target

Config = dict[str, Any]


def _field(name: str, change: Callable[[Any, float], object], culprit: str | None = None) -> Edit:
    """Makes an edit of one field: what it becomes from what it was and the dose; `...` drops it."""

    def edit(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
        value = change(draft.config.get(name), dose)
        if value is ...:
            draft.config.pop(name, None)
        else:
            draft.config[name] = value
        return (culprit or name,)

    return edit


def _times(value: Any, dose: float) -> object:  # noqa: ANN401 - JSON
    if not isinstance(value, int | float):
        raise InapplicableError("the config does not state the field", actual=value)
    product = type(value)(value * dose)
    if not math.isfinite(product):
        raise InapplicableError("the config cannot state the product", actual=dose)
    return product


def _gone(_value: object, _dose: float) -> object:
    return ...


def _quantized(name: str, change: Callable[[Draft, float], object]) -> Edit:
    """Makes an edit of one field of the quantization block."""

    def edit(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
        if draft.quantization.get("quant_algo") is None:
            raise InapplicableError("the checkpoint is not quantized")
        draft.quantization[name] = change(draft, dose)
        return (f"quantization.{name}",)

    return edit


def _scaling(kind: str) -> Edit:
    def change(_value: object, dose: float) -> object:
        return {"type": kind, "factor": dose}

    return _field("rotary_scaling", change)


def _window(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
    draft.config["runtime_defaults"] = {"max_attention_window": [round(dose)]}
    return ("runtime_defaults.max_attention_window",)


def _fewer_layers(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
    layers, left = draft.geometry.layers, draft.geometry.layers - round(dose)
    draft.config["num_hidden_layers"] = left
    return ("num_hidden_layers", *(layer_name(layer) for layer in range(max(left, 0), layers)))


def _more_ranks(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
    ranks = 2 * len(draft.ranks)
    draft.config["mapping"] = {"world_size": ranks, "tp_size": ranks, "pp_size": 1}
    return ("mapping", f"rank{len(draft.ranks)}")


def _world_size(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
    draft.config["mapping"] = {**draft.config["mapping"], "world_size": 2 * len(draft.ranks)}
    return ("mapping.world_size",)


def _quantized_listed(draft: Draft, _dose: float) -> object:
    excluded = draft.quantization.get("exclude_modules") or []
    return [*excluded, f"transformer.layers.{draft.geometry.layers // 2}.mlp.proj"]


def _another_algorithm(draft: Draft, _dose: float) -> object:
    stated = str(draft.quantization["quant_algo"])
    return "W4A16_AWQ" if stated in ("W8A16", "W8A8_SQ_PER_CHANNEL") else "W8A16"


def _group_size(draft: Draft, dose: float) -> object:
    stated = draft.quantization.get("group_size")
    if not isinstance(stated, int) or stated * dose < 1:
        raise InapplicableError("the config states no group size", actual=stated)
    return round(stated * dose)


def _prequant_flag(draft: Draft, _dose: float) -> object:
    stated = draft.quantization.get("pre_quant_scale")
    if stated is None:
        raise InapplicableError("the config says nothing of pre-quant scales")
    return not stated


def _other_flag(name: str, tensor: str) -> Edit:
    """Makes an edit that says of tensors that are there that they are not, and the other way."""

    def edit(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
        draft.config[name] = not any(one.endswith(tensor) for one in draft.ranks[0])
        return (name,)

    return edit


def _tied(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
    """No head of its own in the files, and the config does not say that the table is shared."""
    for rank in range(len(draft.ranks)):
        draft.drop(rank, "lm_head.weight")
    draft.config["share_embedding_table"] = False
    return ("share_embedding_table", "lm_head.weight")


FAULTS = (
    Fault("rope-base", "T15", "the rope base is multiplied", _field("rotary_base", _times),
          "TensorRT-LLM 785", "factor", 1.01, scope="model"),
    Fault("rope-base-missing", "T15", "the rope base is not there and a default is assumed",
          _field("rotary_base", _gone), "Model-Optimizer PR 1693", scope="model"),
    Fault("rope-linear", "T15", "positions are stretched that the source does not stretch",
          _scaling("linear"), "TensorRT-LLM PR 1385", "factor", 1.02, scope="model"),
    Fault("rope-dynamic", "T15", "dynamic stretching that the source does not have",
          _scaling("dynamic"), "TensorRT-LLM 1676", "factor", 2.0, scope="model"),
    Fault("rope-share", "T15", "only a share of each head is rotated",
          _field("rotary_pct", lambda _, dose: dose), "", "share", 0.5, scope="model"),
    Fault("window", "T15", "an attention window that the source does not have", _window,
          "SGLang PR 4823, vLLM 49795", "tokens", 128.0, scope="model"),
    Fault("positions", "T15", "the longest position is another",
          _field("max_position_embeddings", _times), "vLLM 2064", "factor", 2.0, scope="model"),
    Fault("position-type", "T15", "another kind of position embedding",
          _field("position_embedding_type", lambda *_: "rope_gptj"), "", scope="model"),
    Fault("position-type-missing", "T15", "the kind of position embedding is not there",
          _field("position_embedding_type", _gone), "", scope="model"),
    Fault("epsilon", "T26", "the norms' epsilon is multiplied", _field("norm_epsilon", _times),
          "TensorRT-LLM 4815", "factor", 0.1, scope="model"),
    Fault("activation-function", "T26", "another activation function",
          _field("hidden_act", lambda *_: "gelu"), "", scope="model"),
    Fault("activation-function-missing", "T26", "the activation function is not there",
          _field("hidden_act", _gone), "", scope="model"),
    Fault("layers-fewer", "T26", "the config has fewer layers than the source", _fewer_layers, "",
          "layers", 1.0, scope="model"),
    Fault("query-scaling", "T26", "queries are scaled", _field("q_scaling", lambda _, dose: dose),
          "", "factor", 1.1, scope="model"),
    Fault("soft-cap", "T26", "logits are capped", _field("logits_soft_cap", lambda _, dose: dose),
          "TensorRT-LLM 4815", "cap", 30.0, scope="model"),
    Fault("attention-bias-flag", "T26", "biases are announced that the source has not, or denied",
          _other_flag("attn_bias", "attention.qkv.bias"), "", scope="model"),
    Fault("key-norm-flag", "T26", "query and key norms are announced that there are not, or denied",
          _other_flag("qk_layernorm", "attention.q_layernorm.weight"), "", scope="model"),
    Fault("residual-mlp-flag", "T26", "the MLP beside attention, not after it",
          _field("residual_mlp", lambda *_: True), "", scope="model"),
    Fault("architecture", "T26", "another architecture",
          _field("architecture", lambda *_: "GPTForCausalLM"), "", scope="model"),
    Fault("key-heads-missing", "T14", "the number of key heads is not there",
          _field("num_key_value_heads", _gone), "vLLM 1735", scope="model",
          also=("T3", "T26")),
    Fault("head-size", "T26", "another head size", _field("head_size", _times), "",
          "factor", 2.0, scope="model", also=("T15",)),
    Fault("vocabulary", "T23", "another size of the vocabulary", _field("vocab_size", _times), "",
          "factor", 0.5, scope="model"),
    Fault("vocabulary-padded", "T23", "more padding than any exporter adds",
          _field("vocab_size", lambda value, dose: value + round(dose)), "", "rows", 64.0,
          scope="model", also=("T3",)),
    Fault("ranks-more", "T14", "the config has more ranks than there are files", _more_ranks,
          "SGLang PR 19086", scope="model"),
    Fault("world-size", "T14", "the world is larger than the ranks it is made of", _world_size,
          "", scope="model"),
    Fault("tie-lost", "T8", "the head is not there and the table is not said to be shared", _tied,
          "llm-compressor PR 2798", scope="model", also=("T26",)),
    Fault("excluded-and-quantized", "T8", "a quantized linear is listed as excluded",
          _quantized("exclude_modules", _quantized_listed), "vLLM 21669", scope="model"),
    Fault("exclusion-lost", "T8", "the head is unquantized and not excluded",
          _quantized("exclude_modules", lambda *_: ["nothing"]), "TensorRT-LLM PR 3567",
          scope="model"),
    Fault("exclusions-empty", "T8", "the list of exclusions is empty: the head is not excluded",
          _quantized("exclude_modules", lambda *_: []), "TensorRT-LLM PR 3567", scope="model"),
    Fault("algorithm", "T8", "another quantization algorithm is announced",
          _quantized("quant_algo", _another_algorithm), "", scope="model", also=("T3", "T9")),
    Fault("algorithm-missing", "T8", "no quantization is announced",
          _quantized("quant_algo", lambda *_: None), "", scope="model", also=("T3",)),
    Fault("group-size", "T3", "another group size is announced",
          _quantized("group_size", _group_size), "pyllama 58", "factor", 2.0, scope="model"),
    Fault("zero-point-flag", "T4", "zero points are announced",
          _quantized("has_zero_point", lambda *_: True), "vLLM 26343", scope="model"),
    Fault("prequant-flag", "T9", "pre-quant scales are announced that are not there, or not those",
          _quantized("pre_quant_scale", _prequant_flag), "Model-Optimizer PR 1825",
          scope="model"),
    Fault("cache-announced", "T10", "a quantized cache is announced and no layer has a scale",
          lambda draft, _t, _d: _announced(draft), "TensorRT-LLM PR 16916", scope="model"),
)  # fmt: skip


def _announced(draft: Draft) -> tuple[str, ...]:
    if any(name.endswith("cache_scaling_factor") for rank in draft.ranks for name in rank):
        raise InapplicableError("there are cache scales")
    draft.quantization["kv_cache_quant_algo"] = "INT8"
    return ("quantization.kv_cache_quant_algo",)
