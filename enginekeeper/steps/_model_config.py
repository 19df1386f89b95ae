"""A checkpoint's `config.json`, read with TensorRT-LLM's own defaults.

What the file does not say becomes what TensorRT-LLM assumes, right or wrong for the model, so that
a wrong config makes here the wrong engine it would make on a GPU. The defaults are those of
`PretrainedConfig` (tensorrt_llm/models/modeling_utils.py), `LLaMAConfig` (models/llama/config.py)
and `QWenConfig` (models/qwen/config.py).
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_NORM_EPSILON = 1e-5
"""`PretrainedConfig.norm_epsilon` when the file is silent."""

DEFAULT_ROTARY_BASE = 10000.0
"""`LLaMAConfig.rotary_base` and `QWenConfig.rotary_base` when the file is silent."""

DEFAULT_POSITION_EMBEDDING = "learned_absolute"
"""`PretrainedConfig.position_embedding_type` when the file is silent."""

MOST_LAYERS = 1024
"""The largest models have some 130; what is held for each must not grow with a number in a file."""

FAMILIES: dict[str, str] = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architectures that share this decoder layer; Mistral is TensorRT-LLM's Llama class."""

ACTIVATIONS = ("silu", "swiglu", "gelu")
"""In TensorRT-LLM's gated MLP `silu` and `swiglu` name the same function."""


@dataclass(frozen=True)
class Rope:
    """Everything the rotary tables are computed from."""

    base: float
    dim: int
    scaling: Mapping[str, Any] | None
    max_positions: int


@dataclass(frozen=True)
class Quantization:
    """The `quantization` block: which algorithm, and which modules it leaves alone."""

    algorithm: str | None
    kv_cache: str | None
    group_size: int
    has_zero_point: bool
    pre_quant_scale: bool
    exclude_modules: tuple[str, ...] | None


@dataclass(frozen=True)
class ModelConfig:
    """The decoder a checkpoint's config describes."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    norm_epsilon: float
    activation: str
    qkv_bias: bool
    dense_bias: bool
    mlp_bias: bool
    qk_norm: bool
    shared_embedding: bool
    rope: Rope
    windows: tuple[int | None, ...]
    """Per layer, how many latest tokens it attends to; None is all of them."""
    quantization: Quantization
    assumed: tuple[str, ...]
    """Fields the file does not hold, with the value TensorRT-LLM assumes."""


class _Fields:
    """Typed look-ups in the config that remember which defaults were taken."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self._raw = raw
        self._where = where
        self.assumed: list[str] = []

    def required(self, name: str, kind: type) -> Any:  # noqa: ANN401 - JSON
        """Returns a field without which TensorRT-LLM does not build."""
        if self._raw.get(name) is None:
            raise Refusal(
                "config-field-missing",
                f"config.json has no {name}",
                where=f"{self._where}: {name}",
                expected=kind.__name__,
                remedy="export the checkpoint again; TensorRT-LLM requires this field",
            )
        return self._typed(name, self._raw[name], kind)

    def optional(self, name: str, kind: type, default: object, *, tell: bool = False) -> Any:  # noqa: ANN401
        """Returns a field or TensorRT-LLM's default; `tell` records that it was assumed."""
        value = self._raw.get(name)
        if value is None:
            if tell:
                self.assumed.append(f"{name}={default}")
            return default
        return self._typed(name, value, kind)

    def _typed(self, name: str, value: object, kind: type) -> Any:  # noqa: ANN401
        if kind is float and type(value) is int and abs(value) < sys.float_info.max:
            value = float(value)
        broken = isinstance(value, float) and not math.isfinite(value)
        if not isinstance(value, kind) or broken or (kind is int and not _positive(value)):
            raise Refusal(
                "config-field-type",
                f"{name} in config.json has the wrong type",
                where=f"{self._where}: {name}",
                expected={int: "a positive int", float: "a finite float"}.get(kind, kind.__name__),
                actual=repr(value),
            )
        return value


def load_config(checkpoint: Path) -> ModelConfig:
    """Reads and validates `checkpoint/config.json`."""
    path = checkpoint / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal("not-a-checkpoint", "config.json is missing", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise Refusal("config-unreadable", str(error), where=str(path)) from None
    if not isinstance(raw, dict):
        raise Refusal("config-unreadable", "config.json is not an object", where=str(path))
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Turns the JSON object into a decoder description, or refuses what is not implemented."""
    fields = _Fields(raw, where)
    architecture = fields.required("architecture", str)
    family = _family(architecture, where)
    _refuse_unimplemented(raw, where)
    layers = _layers(fields.required("num_hidden_layers", int), where)
    hidden = fields.required("hidden_size", int)
    heads = fields.required("num_attention_heads", int)
    attn_bias = fields.optional("attn_bias", bool, family != "llama", tell=family != "llama")
    head_size = fields.optional("head_size", int, hidden // heads)
    return ModelConfig(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(fields.optional("num_key_value_heads", int, heads), heads, where),
        head_size=head_size,
        intermediate=fields.optional("intermediate_size", int, hidden * 4, tell=True),
        vocabulary=fields.required("vocab_size", int),
        norm_epsilon=fields.optional("norm_epsilon", float, DEFAULT_NORM_EPSILON, tell=True),
        activation=_activation(fields.optional("hidden_act", str, "gelu", tell=True), where),
        qkv_bias=attn_bias,
        dense_bias=attn_bias and family == "llama",
        mlp_bias=fields.optional("mlp_bias", bool, False),  # noqa: FBT003 - a default, not a flag
        qk_norm=family == "qwen3" or fields.optional("qk_layernorm", bool, False),  # noqa: FBT003
        shared_embedding=fields.optional("share_embedding_table", bool, False),  # noqa: FBT003
        rope=_rope(fields, raw, head_size, where),
        windows=_windows(raw, layers, where),
        quantization=_quantization(_section(raw, "quantization", where), where),
        assumed=tuple(fields.assumed),
    )


def _family(architecture: str, where: str) -> str:
    if architecture not in FAMILIES:
        raise Refusal(
            "unsupported-architecture",
            f"the inductor builder has no decoder for {architecture}",
            where=f"{where}: architecture",
            expected=", ".join(FAMILIES),
            actual=architecture,
        )
    return FAMILIES[architecture]


def _layers(layers: int, where: str) -> int:
    if layers > MOST_LAYERS:
        raise Refusal(
            "config-inconsistent",
            "no decoder has so many layers",
            where=f"{where}: num_hidden_layers",
            expected=f"at most {MOST_LAYERS}",
            actual=layers,
        )
    return layers


def _kv_heads(kv_heads: int, heads: int, where: str) -> int:
    if kv_heads < 1 or heads % kv_heads:
        raise Refusal(
            "config-inconsistent",
            "the key-value heads do not divide the query heads",
            where=f"{where}: num_key_value_heads",
            expected=f"a divisor of {heads}",
            actual=kv_heads,
        )
    return kv_heads


def _activation(name: str, where: str) -> str:
    if name not in ACTIVATIONS:
        raise Refusal(
            "unsupported-activation",
            f"hidden_act {name} is not implemented",
            where=f"{where}: hidden_act",
            expected=", ".join(ACTIVATIONS),
            actual=name,
        )
    return "silu" if name == "swiglu" else name


_NEUTRAL: tuple[tuple[str, object], ...] = (
    ("residual_mlp", False),
    ("lm_head_bias", False),
    ("rmsnorm", True),
    ("rotary_pct", 1.0),
    ("embedding_multiplier", 1.0),
    ("attention_multiplier", 1.0),
    ("residual_multiplier", 1.0),
    ("output_multiplier_scale", 1.0),
    ("use_logn_attn", False),
)
"""Fields that change the arithmetic, and the only value this builder computes."""


def _refuse_unimplemented(raw: Mapping[str, Any], where: str) -> None:
    """Refuses by name every field whose effect is not implemented: none is passed over."""
    for name, neutral in _NEUTRAL:
        if raw.get(name, neutral) not in (neutral, None):
            raise Refusal(
                "unsupported-config",
                f"{name}={raw[name]!r} is not implemented by the inductor builder",
                where=f"{where}: {name}",
                expected=neutral,
                actual=raw[name],
            )
    experts = _section(raw, "moe", where).get("num_experts", raw.get("moe_num_experts"))
    if experts:
        raise Refusal(
            "unsupported-config", "mixture of experts is not implemented", where=f"{where}: moe"
        )
    world = _section(raw, "mapping", where).get("world_size", 1)
    if world != 1:
        raise Refusal(
            "unsupported-parallelism",
            "the inductor builder runs one rank",
            where=f"{where}: mapping.world_size",
            expected=1,
            actual=world,
        )


def _rope(fields: _Fields, raw: Mapping[str, Any], head_size: int, where: str) -> Rope:
    kind = fields.optional("position_embedding_type", str, DEFAULT_POSITION_EMBEDDING, tell=True)
    if kind != "rope_gpt_neox":
        raise Refusal(
            "unsupported-position-embedding",
            f"position_embedding_type {kind} is not implemented",
            where=f"{where}: position_embedding_type",
            expected="rope_gpt_neox",
            actual=kind,
        )
    dim = fields.optional("rotary_embedding_dim", int, head_size)
    if dim != head_size:
        raise Refusal(
            "unsupported-config",
            "a rotary dimension smaller than the head is not implemented",
            where=f"{where}: rotary_embedding_dim",
            expected=head_size,
            actual=dim,
        )
    scaling = _section(raw, "rotary_scaling", where)
    return Rope(
        base=fields.optional("rotary_base", float, DEFAULT_ROTARY_BASE, tell=True),
        dim=dim,
        scaling=scaling or None,
        max_positions=fields.required("max_position_embeddings", int),
    )


def _section(raw: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """Returns a nested object; an absent one is empty."""
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(
            "config-field-type",
            f"{name} in config.json is not an object",
            where=f"{where}: {name}",
            expected="object",
            actual=repr(value),
        )
    return value


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _windows(raw: Mapping[str, Any], layers: int, where: str) -> tuple[int | None, ...]:
    """Reads `runtime_defaults.max_attention_window`, which repeats over the layers.

    A bare `sliding_window`, as Hugging Face writes it, means the same for every layer here;
    TensorRT-LLM takes the window at run time and does not read it from the checkpoint.
    """
    defaults = _section(raw, "runtime_defaults", where)
    sizes = defaults.get("max_attention_window") or [raw.get("sliding_window")]
    if not isinstance(sizes, list) or not all(size is None or _positive(size) for size in sizes):
        raise Refusal(
            "config-inconsistent",
            "an attention window must be a positive number, or null for none",
            where=f"{where}: max_attention_window",
            actual=sizes,
        )
    return tuple(sizes[layer % len(sizes)] for layer in range(layers))


def _quantization(raw: Mapping[str, Any], where: str) -> Quantization:
    fields = _Fields(raw, f"{where}: quantization")
    excluded = fields.optional("exclude_modules", list, None)
    return Quantization(
        algorithm=fields.optional("quant_algo", str, None),
        kv_cache=fields.optional("kv_cache_quant_algo", str, None),
        group_size=fields.optional("group_size", int, 128),
        has_zero_point=fields.optional("has_zero_point", bool, False),  # noqa: FBT003
        pre_quant_scale=fields.optional("pre_quant_scale", bool, False),  # noqa: FBT003
        exclude_modules=None if excluded is None else tuple(str(name) for name in excluded),
    )
