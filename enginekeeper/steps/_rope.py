"""Rotary tables as TensorRT-LLM computes them, in float32 from float32 frequencies.

The formulas are those of `RopeEmbeddingUtils` (tensorrt_llm/functional.py), whose defaults for
absent keys are kept too. A scaling that is not here is refused by name; nothing falls back to
unscaled rotation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _model_config import Rope
    from numpy.typing import NDArray

    Frequencies = NDArray[np.float32]

LLAMA3_DEFAULTS = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What `apply_llama3_scaling` assumes for keys the config does not hold."""

YARN_DEFAULTS = {
    "factor": 1.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.0,
}
"""What the attention layer hands to `create_sinusoidal_positions_yarn` for absent keys."""


def rotary_tables(rope: Rope, positions: int) -> tuple[Frequencies, Frequencies]:
    """Returns cos and sin of shape (positions, head size), the halves repeated (GPT-NeoX order)."""
    frequencies, magnitude = rotary_frequencies(rope)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    doubled = np.concatenate((angles, angles), axis=-1)
    scale = np.float32(magnitude)
    return np.cos(doubled) * scale, np.sin(doubled) * scale


def rotary_frequencies(rope: Rope) -> tuple[Frequencies, float]:
    """Returns the inverse frequencies and the factor the tables are multiplied with."""
    plain = (1.0 / (rope.base ** (np.arange(0, rope.dim, 2) / rope.dim))).astype(np.float32)
    if rope.scaling is None:
        return plain, 1.0
    kind = rope.scaling.get("type", rope.scaling.get("rope_type"))
    if kind not in _SCALINGS:
        raise Refusal(
            "unsupported-rope-scaling",
            f"rotary scaling {kind!r} is not implemented",
            where="config.json: rotary_scaling.type",
            expected=", ".join(_SCALINGS),
            actual=kind,
            remedy=(
                "leave rotary_scaling out"
                if kind == "default"
                else "build this model with a builder that implements it"
            ),
        )
    return _SCALINGS[kind](plain, rope)


def _unscaled(plain: Frequencies, _rope: Rope) -> tuple[Frequencies, float]:
    return plain, 1.0


def _linear(plain: Frequencies, rope: Rope) -> tuple[Frequencies, float]:
    factor = _number(rope.scaling or {}, "factor", {"factor": 1.0})
    return (plain / np.float32(factor)).astype(np.float32), 1.0


def _llama3(plain: Frequencies, rope: Rope) -> tuple[Frequencies, float]:
    """Slows long wavelengths by the factor, leaves short ones, and blends between."""
    scaling = rope.scaling or {}
    factor, low, high, context = (_number(scaling, key, LLAMA3_DEFAULTS) for key in LLAMA3_DEFAULTS)
    if low == high:
        raise Refusal(
            "config-inconsistent",
            "low_freq_factor and high_freq_factor must differ",
            where="config.json: rotary_scaling",
            actual=low,
        )
    wavelengths = 2 * math.pi / plain
    smooth = (context / wavelengths - low) / (high - low)
    blended = (1 - smooth) * plain / factor + smooth * plain
    scaled = np.where(wavelengths > context / low, plain / factor, blended)
    return np.where(wavelengths < context / high, plain, scaled).astype(np.float32), 1.0


def _yarn(_plain: Frequencies, rope: Rope) -> tuple[Frequencies, float]:
    """Blends stretched and plain frequencies over the dimensions that turn rarely."""
    values = {key: _number(rope.scaling or {}, key, YARN_DEFAULTS) for key in YARN_DEFAULTS}
    factor = values["factor"]
    powers = (rope.base ** (np.arange(0, rope.dim, 2) / rope.dim)).astype(np.float32)
    low, high = (
        _rotations_to_dimension(rope, values["original_max_position_embeddings"], values[beta])
        for beta in ("beta_fast", "beta_slow")
    )
    first, last = float(max(math.floor(low), 0)), float(min(math.ceil(high), rope.dim - 1))
    if first == last:
        last += 0.001  # as in the original, against a division by zero
    ramp = np.clip((np.arange(rope.dim // 2, dtype=np.float32) - first) / (last - first), 0, 1)
    frequencies = ramp / (factor * powers) + (1 - ramp) / powers
    magnitude = _yarn_magnitude(factor, values["mscale"]) / _yarn_magnitude(
        factor, values["mscale_all_dim"]
    )
    return frequencies.astype(np.float32), magnitude


def _rotations_to_dimension(rope: Rope, context: float, rotations: float) -> float:
    """Returns the dimension that makes that many turns within the original context."""
    return rope.dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(rope.base))


def _yarn_magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _number(scaling: Mapping[str, Any], key: str, defaults: Mapping[str, float]) -> float:
    value = scaling.get(key, defaults[key])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise Refusal(
            "config-field-type",
            f"rotary_scaling.{key} is not a number",
            where=f"config.json: rotary_scaling.{key}",
            expected="a positive number",
            actual=repr(value),
        )
    return float(value)


_SCALINGS: dict[str, Callable[[Frequencies, Rope], tuple[Frequencies, float]]] = {
    "none": _unscaled,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
