"""Rotary tables, against values of transformers' and TensorRT-LLM's formulas worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories.step_modules import step_module

Refusal = step_module("_step").Refusal
Rope = step_module("_model_config").Rope
rope_module = step_module("_rope")

LLAMA3 = {
    "type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _rope(scaling: dict[str, Any] | None = None, base: float = 10000.0, dim: int = 64) -> Any:  # noqa: ANN401
    return Rope(base=base, dim=dim, scaling=scaling, max_positions=4096)


def _frequencies(scaling: dict[str, Any] | None = None, base: float = 10000.0) -> tuple[Any, float]:
    found: tuple[Any, float] = rope_module.rotary_frequencies(_rope(scaling, base))
    return found


def test_plain_frequencies_are_powers_of_the_base() -> None:
    frequencies, magnitude = _frequencies()

    expected = [10000.0 ** (-2 * i / 64) for i in range(32)]
    assert np.allclose(frequencies, expected, rtol=1e-6)
    assert magnitude == 1.0


def test_the_first_position_is_not_rotated() -> None:
    cos, sin = rope_module.rotary_tables(_rope(), 3)

    assert cos.shape == sin.shape == (3, 64)
    assert np.all(cos[0] == 1)
    assert np.all(sin[0] == 0)
    assert np.all(cos[:, :32] == cos[:, 32:])


def test_linear_scaling_divides_by_the_factor() -> None:
    plain, _ = _frequencies()
    scaled, _ = _frequencies({"type": "linear", "factor": 4.0})

    assert np.allclose(scaled, plain / 4, rtol=1e-6)


def test_llama3_keeps_short_waves_and_stretches_long_ones() -> None:
    plain, _ = _frequencies(base=500000.0)
    scaled, magnitude = _frequencies(LLAMA3, base=500000.0)

    waves = 2 * math.pi / plain
    assert np.allclose(scaled[waves < 2048], plain[waves < 2048])
    assert np.allclose(scaled[waves > 8192], plain[waves > 8192] / 8)
    between = (waves > 2048) & (waves < 8192)
    assert between.any()
    assert np.all((scaled < plain)[between] & (scaled > plain / 8)[between])
    assert magnitude == 1.0


def test_llama3_has_tensorrt_llms_defaults() -> None:
    assert np.array_equal(
        _frequencies({"type": "llama3"}, base=500000.0)[0], _frequencies(LLAMA3, base=500000.0)[0]
    )


def test_yarn_keeps_fast_dimensions_stretches_slow_ones_and_scales_the_tables() -> None:
    plain, _ = _frequencies()
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    scaled, magnitude = _frequencies(scaling)

    assert np.isclose(scaled[0], plain[0])
    assert np.isclose(scaled[-1], plain[-1] / 4)
    assert math.isclose(magnitude, 0.1 * math.log(4.0) + 1.0)


def test_the_older_key_rope_type_names_the_scaling_too() -> None:
    scaled, _ = _frequencies({"rope_type": "linear", "factor": 2.0})

    assert np.isclose(scaled[0], 0.5)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "mrope", "default", "su", None])
def test_a_scaling_that_is_not_implemented_is_refused_by_name(kind: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        _frequencies({"type": kind, "factor": 2.0})

    assert refused.value.kind == "unsupported-rope-scaling"
    assert str(kind) in str(refused.value)


@pytest.mark.parametrize("value", ["8", None, True, -1.0])
def test_a_scaling_value_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(Refusal) as refused:
        _frequencies({**LLAMA3, "factor": value})

    assert refused.value.kind == "config-field-type"


@given(st.floats(1e3, 1e7), st.sampled_from([16, 64, 128]), st.sampled_from(["none", "yarn"]))
def test_frequencies_are_finite_positive_and_falling(base: float, dim: int, kind: str) -> None:
    scaling = {"type": kind, "factor": 2.0}
    frequencies, _ = rope_module.rotary_frequencies(_rope(scaling, base, dim))

    assert np.all(np.isfinite(frequencies))
    assert np.all(frequencies > 0)
    assert np.all(np.diff(frequencies) < 0)
