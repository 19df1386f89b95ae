"""Rotary position embedding, said the same way whichever config says it.

Hugging Face writes `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters`
(transformers 5, at times one entry per kind of layer); TensorRT-LLM writes `rotary_base` and
`rotary_scaling`. Both are read here into one form, with each side's own defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_BASE = 10000.0
"""TensorRT-LLM's `rotary_base`, and transformers' `rope_theta` for Llama, Mistral and Qwen."""

TRTLLM_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "linear": {"factor": 1.0},
    "dynamic": {"factor": 1.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {
        "factor": 1.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 0.0,
    },
    "longrope": {},
}
"""What TensorRT-LLM takes for keys a scaling does not hold (tensorrt_llm/functional.py)."""

_ALIASES = {"su": "longrope", "none": "default", "mrope": "default"}
_NOT_PARAMETERS = ("rope_theta", "rope_type", "type", "partial_rotary_factor")


@dataclass(frozen=True)
class Rope:
    """The rotation: its base, the share of the head it turns, and how positions are stretched."""

    base: float
    kind: str
    """`default`, `linear`, `dynamic`, `llama3`, `yarn`, `longrope`, or a type not known here."""
    parameters: Mapping[str, Any]
    partial: float = 1.0
    per_layer_type: bool = False
    """Whether kinds of layers rotate differently, which no TensorRT-LLM Llama field expresses."""


def source_rope(config: Mapping[str, Any]) -> Rope:
    """Reads a Hugging Face config of transformers 4 or 5."""
    parameters = config.get("rope_parameters") or {}
    nested = {k: v for k, v in parameters.items() if isinstance(v, Mapping)}
    if nested:
        distinct = [dict(value) for value in nested.values()]
        parameters = distinct[0]
        several = any(other != parameters for other in distinct[1:])
    else:
        several = False
    scaling = {**(config.get("rope_scaling") or {}), **parameters}
    base = parameters.get("rope_theta", config.get("rope_theta"))
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    kind, values = _scaling(scaling)
    if kind in ("llama3", "yarn", "longrope", "dynamic"):
        # transformers takes the model's own length where the scaling names none.
        original = config.get("original_max_position_embeddings") or config.get(
            "max_position_embeddings"
        )
        values.setdefault("original_max_position_embeddings", original)
    if kind == "dynamic":
        values.pop("original_max_position_embeddings", None)
    return Rope(
        base=float(DEFAULT_BASE if base is None else base),
        kind=kind,
        parameters=values,
        partial=float(1.0 if partial is None else partial),
        per_layer_type=several,
    )


def checkpoint_rope(config: Mapping[str, Any]) -> Rope:
    """Reads a TensorRT-LLM config; what is missing is what TensorRT-LLM assumes."""
    base = config.get("rotary_base")
    kind, values = _scaling(config.get("rotary_scaling") or {})
    if kind == "longrope":
        values = {**_longrope_fields(config), **values}
    head = int(config.get("head_size") or 0)
    partial = config.get("rotary_pct")
    dim = config.get("rotary_embedding_dim")
    if dim is not None and head:
        partial = int(dim) / head
    return Rope(
        base=float(DEFAULT_BASE if base is None else base),
        kind=kind,
        parameters={**TRTLLM_DEFAULTS.get(kind, {}), **values},
        partial=float(1.0 if partial is None else partial),
    )


def expected_parameters(rope: Rope) -> dict[str, Any]:
    """Returns the source's scaling as TensorRT-LLM would have to hold it."""
    expected = {**_source_defaults(rope.kind), **rope.parameters}
    factor = expected.get("attention_factor")
    if rope.kind == "yarn" and factor is not None:
        expected["attention_factor"] = float(factor)
    return {key: value for key, value in expected.items() if value is not None}


def yarn_magnitude(parameters: Mapping[str, Any]) -> float:
    """Returns what YaRN multiplies sines and cosines by, from either side's parameters."""
    explicit = parameters.get("attention_factor")
    if explicit is not None:
        return float(explicit)
    factor = float(parameters.get("factor") or 1.0)

    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    # transformers lets the two cancel only where both are given; 0 is TensorRT-LLM's "not given".
    mscale, over_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if mscale and over_all:
        return magnitude(float(mscale)) / magnitude(float(over_all))
    return magnitude(1.0)


def _scaling(scaling: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    values = {key: value for key, value in scaling.items() if key not in _NOT_PARAMETERS}
    return _ALIASES.get(kind, kind), values


def _source_defaults(kind: str) -> dict[str, Any]:
    """What transformers takes for keys a scaling does not hold."""
    if kind == "yarn":
        return {"beta_fast": 32, "beta_slow": 1}
    return {}


def _longrope_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "longrope_scaling_short_factors": "short_factor",
        "longrope_scaling_long_factors": "long_factor",
        "original_max_position_embeddings": "original_max_position_embeddings",
    }
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
