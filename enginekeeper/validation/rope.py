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

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.configs.trtllm import TrtConfig

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


def source_rope(config: HfConfig) -> Rope:
    """Reads a Hugging Face config of transformers 4 or 5."""
    blocks = [block.stated for block in (config.rope_parameters or {}).values()] or [{}]
    parameters = blocks[0]
    older = {} if config.rope_scaling is None else config.rope_scaling.stated
    kind, values = _scaling({**older, **parameters})
    if kind in ("llama3", "yarn", "longrope"):
        # transformers takes the model's own length where the scaling names none.
        original = config.original_max_position_embeddings or config.max_position_embeddings
        values.setdefault("original_max_position_embeddings", original)
    if kind == "dynamic":
        values.pop("original_max_position_embeddings", None)
    return Rope(
        base=parameters.get("rope_theta") or config.rope_theta or DEFAULT_BASE,
        kind=kind,
        parameters=values,
        partial=parameters.get("partial_rotary_factor") or config.partial_rotary_factor or 1.0,
        per_layer_type=any(block != parameters for block in blocks),
    )


def checkpoint_rope(config: TrtConfig) -> Rope:
    """Reads a TensorRT-LLM config; what is missing is what TensorRT-LLM assumes."""
    kind, values = _scaling({} if config.rotary_scaling is None else config.rotary_scaling.stated)
    if kind == "longrope":
        values = {**_longrope_fields(config), **values}
    partial = config.rotary_pct
    if config.rotary_embedding_dim is not None and config.head_size is not None:
        partial = config.rotary_embedding_dim / config.head_size
    return Rope(
        base=config.rotary_base or DEFAULT_BASE,
        kind=kind,
        parameters={**TRTLLM_DEFAULTS.get(kind, {}), **values},
        partial=partial or 1.0,
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


def _scaling(stated: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    kind = stated.get("rope_type") or stated.get("type") or "default"
    values = {key: value for key, value in stated.items() if key not in _NOT_PARAMETERS}
    return _ALIASES.get(kind, kind), values


def _source_defaults(kind: str) -> dict[str, Any]:
    """What transformers takes for keys a scaling does not hold."""
    if kind == "yarn":
        return {"beta_fast": 32, "beta_slow": 1}
    return {}


def _longrope_fields(config: TrtConfig) -> dict[str, Any]:
    fields = {
        "short_factor": config.longrope_scaling_short_factors,
        "long_factor": config.longrope_scaling_long_factors,
        "original_max_position_embeddings": config.original_max_position_embeddings,
    }
    return {name: value for name, value in fields.items() if value is not None}
