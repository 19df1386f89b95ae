"""The fields that change the mathematics: what the checkpoint means by each, and what it should.

A field that is absent means what TensorRT-LLM assumes (`PretrainedConfig` in
tensorrt_llm/models/modeling_utils.py, `LLaMAConfig`, `QWenConfig`), and is judged so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.configs.trtllm import TrtConfig
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.rope import (
    TRTLLM_DEFAULTS,
    Rope,
    checkpoint_rope,
    expected_parameters,
    source_rope,
    yarn_magnitude,
)

_RELATIVE = 1e-6
"""A number that went through float32 on its way differs by up to 6e-8."""

_PADDING = 64
"""ModelOpt pads the vocabulary to a multiple of 64 for AWQ."""

ARCHITECTURES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""The decoders this audit knows; for any other it says that it cannot decide."""

_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "silu": ("silu", "swiglu", "swish"),
    "swish": ("silu", "swiglu", "swish"),
    "gelu": ("gelu", "geglu"),
    "gelu_new": ("gelu", "geglu", "gelu_new", "gelu_pytorch_tanh"),
    "gelu_pytorch_tanh": ("gelu", "geglu", "gelu_new", "gelu_pytorch_tanh"),
    "relu": ("relu",),
}
"""Names TensorRT-LLM has for each function; its `gelu` is the tanh approximation."""


@dataclass(frozen=True)
class Configs:
    """The two configs, side by side."""

    source: HfConfig
    checkpoint: TrtConfig

    @property
    def geometry(self) -> Geometry:
        """The source's sizes."""
        return Geometry.of(self.source)

    @property
    def family(self) -> str | None:
        """The decoder family of the source, None where it is not known."""
        return ARCHITECTURES.get(self.source.architecture or "")


@dataclass(frozen=True)
class Rule:
    """One field of the checkpoint's config against the source."""

    field: str
    taxonomy: str
    assumed: Callable[[Configs], object]
    """What TensorRT-LLM takes when the field is absent; None where it refuses to load."""
    expected: Callable[[Configs], object]
    source_name: str
    """What the source calls it."""
    agrees: Callable[[Any, Any], bool] = lambda actual, expected: bool(actual == expected)


def judge_field(rule: Rule, configs: Configs) -> Finding | None:
    """Returns a finding when the field, or what is assumed for it, is not the source's."""
    expected = rule.expected(configs)
    stated = getattr(configs.checkpoint, rule.field)
    actual = rule.assumed(configs) if stated is None else stated
    if actual is not None and rule.agrees(actual, expected):
        return None
    if stated is not None:
        how = _text(stated)
    elif actual is None:
        how = "missing, and TensorRT-LLM needs it"
    else:
        how = f"missing, TensorRT-LLM assumes {_text(actual)}"
    return Finding(
        check=f"config.{rule.field}",
        result="fail",
        where=rule.field,
        message=f"{rule.field}: {how}; source {rule.source_name} {_text(expected)}",
        actual="missing" if stated is None else stated,
        expected=expected,
        taxonomy=rule.taxonomy,
    )


def judge_rope(configs: Configs) -> Iterator[Finding]:
    """Yields findings for the rotation's base, stretch and share of the head."""
    source, stored = source_rope(configs.source), checkpoint_rope(configs.checkpoint)
    base = Rule(
        "rotary_base", "T15", lambda _: stored.base, lambda _: source.base, "rope_theta", _close
    )
    finding = judge_field(base, configs)
    if finding is not None:
        yield finding
    if not _close(stored.partial, source.partial):
        yield Finding(
            "config.rotary_pct",
            "fail",
            "rotary_pct",
            f"the share of the head that rotates is {_text(stored.partial)}; "
            f"source partial_rotary_factor {_text(source.partial)}",
            stored.partial,
            source.partial,
            "T15",
        )
    if source.per_layer_type:
        yield Finding(
            "config.rotary_scaling",
            "inconclusive",
            "rotary_scaling",
            "the source rotates its kinds of layers differently, which this audit cannot compare",
            taxonomy="T15",
        )
    yield from _judge_scaling(configs, source, stored)


def _judge_scaling(configs: Configs, source: Rope, stored: Rope) -> Iterator[Finding]:
    stated = configs.checkpoint.rotary_scaling
    if source.kind != stored.kind:
        how = f"{stored.kind}" if stated else "missing, TensorRT-LLM assumes none"
        yield Finding(
            "config.rotary_scaling",
            "fail",
            "rotary_scaling",
            f"rotary_scaling: {how}; source rope_scaling {source.kind} "
            f"{_text(dict(source.parameters))}",
            stated.stated if stated else "missing",
            {"type": source.kind, **source.parameters},
            "T15",
        )
        return
    if source.kind == "default":
        return
    if source.kind not in TRTLLM_DEFAULTS:
        yield Finding(
            "config.rotary_scaling",
            "inconclusive",
            "rotary_scaling",
            f"the rope scaling {source.kind} is not known to this audit",
            source.kind,
            ", ".join(TRTLLM_DEFAULTS),
            "T15",
        )
        return
    yield from _judge_parameters(source, stored)


def _judge_parameters(source: Rope, stored: Rope) -> Iterator[Finding]:
    expected, actual = expected_parameters(source), dict(stored.parameters)
    if source.kind == "yarn":
        # Either side may write the magnitude in its own way: the number is what counts.
        for side in (expected, actual):
            side["magnitude"] = yarn_magnitude(side)
            for name in ("attention_factor", "mscale", "mscale_all_dim"):
                side.pop(name, None)
    for name, value in sorted(expected.items()):
        if not _same_parameter(actual.get(name), value):
            yield Finding(
                f"config.rotary_scaling.{name}",
                "fail",
                f"rotary_scaling.{name}",
                f"rotary_scaling.{name}: {_text(actual.get(name, 'missing'))}; "
                f"source rope_scaling.{name} {_text(value)}",
                actual.get(name, "missing"),
                value,
                "T15",
            )


def _same_parameter(actual: object, expected: object) -> bool:
    if isinstance(expected, list) and isinstance(actual, list):
        return len(actual) == len(expected) and all(
            _same_parameter(a, b) for a, b in zip(actual, expected, strict=True)
        )
    if isinstance(expected, bool) or not isinstance(expected, (int, float)):
        return actual == expected
    return isinstance(actual, (int, float)) and _close(actual, expected)


def _close(actual: Any, expected: Any) -> bool:  # noqa: ANN401 - JSON numbers
    return math.isclose(float(actual), float(expected), rel_tol=_RELATIVE)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _padded(configs: Configs) -> Callable[[Any, Any], bool]:
    ranks = configs.checkpoint.tensor_parallel

    def agrees(actual: Any, expected: Any) -> bool:  # noqa: ANN401 - JSON numbers
        return 0 <= int(actual) - int(expected) < _PADDING * ranks

    return agrees


def rules(configs: Configs) -> Iterator[Rule]:
    """Yields the rules for fields that hold one value."""
    size = configs.geometry
    heads = configs.checkpoint.num_attention_heads or size.heads
    hidden = configs.checkpoint.hidden_size or size.hidden
    yield from (
        _exact("num_hidden_layers", "T26", None, size.layers, "num_hidden_layers"),
        _exact("num_attention_heads", "T26", None, size.heads, "num_attention_heads"),
        _exact("num_key_value_heads", "T14", heads, size.kv_heads, "num_key_value_heads"),
        _exact("hidden_size", "T26", None, size.hidden, "hidden_size"),
        _exact("head_size", "T26", hidden // heads, size.head_size, "head_dim"),
        _exact("intermediate_size", "T26", 4 * hidden, size.intermediate, "intermediate_size"),
    )
    yield Rule(
        "norm_epsilon",
        "T26",
        lambda _: 1e-5,
        lambda c: 1e-6 if c.source.rms_norm_eps is None else c.source.rms_norm_eps,
        "rms_norm_eps",
        _close,
    )
    yield Rule(
        "hidden_act",
        "T26",
        lambda _: "gelu",
        lambda c: c.source.hidden_act or "silu",
        "hidden_act",
        lambda actual, expected: actual in _ACTIVATIONS.get(expected, (expected,)),
    )
    yield _exact(
        "position_embedding_type", "T15", "learned_absolute", "rope_gpt_neox", "model type's"
    )
    yield Rule(
        "vocab_size",
        "T23",
        lambda _: None,
        lambda c: c.geometry.vocabulary,
        "vocab_size",
        _padded(configs),
    )
    yield Rule(
        "max_position_embeddings",
        "T15",
        lambda _: None,
        lambda c: c.source.max_position_embeddings or 2048,
        "max_position_embeddings",
    )
    yield from _bias_rules(configs)


def _bias_rules(configs: Configs) -> Iterator[Rule]:
    """Which linears have biases; the Llama and Qwen classes of TensorRT-LLM assume differently."""
    stated = configs.source.attention_bias
    attention = configs.family == "qwen2" if stated is None else stated
    assumed = configs.family in ("qwen2", "qwen3")
    # The Qwen classes are told by their own architecture; a checkpoint that is silent is right.
    if configs.family == "qwen3" and configs.checkpoint.attn_bias is None:
        assumed = False
    yield _exact("attn_bias", "T26", assumed, attention, "attention_bias")
    mlp = bool(configs.source.mlp_bias)
    yield _exact("mlp_bias", "T26", False, mlp, "mlp_bias")  # noqa: FBT003 - a value, not a switch


def _exact(field: str, taxonomy: str, assumed: object, expected: object, name: str) -> Rule:
    return Rule(field, taxonomy, lambda _: assumed, lambda _: expected, name)
