"""An engine of each family says what transformers says of the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.factories.engine_bench import Bench, mean_kl
from tests.factories.tiny_decoders import FAMILIES, VOCABULARY, write_decoder

pytestmark = pytest.mark.toolchain

SAME = 1e-6
"""Nats; what float32 logarithms of 128 tokens add up to is below 1e-8."""


@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_agrees_with_transformers(family: str, bench: Bench, tmp_path: Path) -> None:
    source, checkpoint = write_decoder(FAMILIES[family], tmp_path / family)
    bench.compile(checkpoint)

    engine = bench.score("score_engine", "e", VOCABULARY, engine=str(tmp_path / "engine"))
    model = bench.score("score_twin", "m", VOCABULARY, twin=str(source))

    assert abs(mean_kl(model, engine)) < SAME
    assert np.array_equal(engine["greedy_ids"], model["greedy_ids"])
    assert np.allclose(engine["greedy_logprobs"], model["greedy_logprobs"], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        ("llama", "rotary_base", None),
        ("llama", "norm_epsilon", 0.5),
        ("llama", "hidden_act", "gelu"),
        ("llama-rope-llama3", "rotary_scaling", None),
        ("mistral-window", "runtime_defaults", None),
    ],
)
def test_a_wrong_config_makes_a_wrong_engine(
    change: tuple[str, str, object], bench: Bench, tmp_path: Path
) -> None:
    family, field, wrong = change
    source, checkpoint = write_decoder(FAMILIES[family], tmp_path / family)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, field: wrong}))
    bench.compile(checkpoint)

    engine = bench.score("score_engine", "e", VOCABULARY, engine=str(tmp_path / "engine"))
    model = bench.score("score_twin", "m", VOCABULARY, twin=str(source))

    assert mean_kl(model, engine) > 1000 * SAME
