"""An engine of each recipe is the checkpoint it was built from; nothing is lost or added.

The other side is transformers running the checkpoint dequantized by code of another kind (numpy,
in the core), so that one mistake is not made twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from enginekeeper.validation.twin import write_checkpoint_twin
from tests.factories.checkpoints import SOURCE, exported
from tests.factories.engine_bench import Bench, mean_kl

pytestmark = pytest.mark.toolchain

VOCABULARY = 96
WEIGHT_ONLY = ("none", "w8a16", "w4a16", "w4a16_awq")
ACTIVATIONS_TOO = ("fp8", "fp8_per_channel_per_token", "w8a8_sq", "w4a8_awq")
SAME = 1e-6
ROUNDED_ALIKE = 1e-4
"""Activations that lie on a rounding boundary may fall on either side, in two layers, rarely."""


def _apart(checkpoint: Path, bench: Bench) -> float:
    """Returns the mean KL of the engine from the dequantized checkpoint."""
    twin = bench.folder / "twin"
    write_checkpoint_twin(SOURCE, checkpoint, twin)
    bench.compile(checkpoint)
    size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    directory = str(bench.folder / "engine")
    engine = bench.score("score_engine", "e", VOCABULARY, engine=directory, top_k=size)
    model = bench.score("score_twin", "m", VOCABULARY, twin=str(twin))
    assert engine["finite"].all()
    return abs(mean_kl(model, engine))


@pytest.mark.parametrize("recipe", WEIGHT_ONLY)
def test_weights_are_dequantized_exactly(recipe: str, bench: Bench, tmp_path: Path) -> None:
    assert _apart(exported(recipe, tmp_path), bench) < SAME


@pytest.mark.parametrize("recipe", ACTIVATIONS_TOO)
def test_activations_are_rounded_alike(recipe: str, bench: Bench, tmp_path: Path) -> None:
    assert _apart(exported(recipe, tmp_path), bench) < ROUNDED_ALIKE


@pytest.mark.parametrize("kind", ["FP8", "INT8"])
def test_the_cache_is_rounded_alike(kind: str, bench: Bench, tmp_path: Path) -> None:
    assert _apart(_with_cache(kind, tmp_path), bench) < ROUNDED_ALIKE


def test_the_weights_stay_quantized_in_the_engine(bench: Bench, tmp_path: Path) -> None:
    checkpoint = exported("w4a16_awq", tmp_path)
    bench.compile(checkpoint)

    engine = tmp_path / "engine"
    for name in ("config.json", "rank0.safetensors"):
        assert (engine / name).read_bytes() == (checkpoint / name).read_bytes()
    graphs = list(engine.glob("graphs/*/*.pt2"))
    assert sorted(path.stem for path in graphs) == ["decode", "head", "prefill"]


def test_a_weight_that_is_not_a_number_is_seen_in_the_scores(bench: Bench, tmp_path: Path) -> None:
    checkpoint = exported("none", tmp_path)
    weights = checkpoint / "rank0.safetensors"
    tensors: dict[str, Any] = load_file(weights)
    tensors["transformer.layers.1.mlp.proj.weight"][0, 0] = np.nan
    save_file(tensors, weights)
    bench.compile(checkpoint)

    scores = bench.score("score_engine", "e", VOCABULARY, engine=str(tmp_path / "engine"))

    assert not scores["finite"].any()


def _with_cache(kind: str, folder: Path) -> Path:
    """Returns an unquantized checkpoint with a quantized cache, its scales of a likely size."""
    checkpoint = exported("none", folder)
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization"]["kv_cache_quant_algo"] = kind
    (checkpoint / "config.json").write_text(json.dumps(config))
    weights = checkpoint / "rank0.safetensors"
    tensors: dict[str, Any] = load_file(weights)
    for layer in range(config["num_hidden_layers"]):
        for part, scale in (("k", 0.02), ("v", 0.01)):
            name = f"transformer.layers.{layer}.attention.{part}_cache_scaling_factor"
            tensors[name] = np.asarray([scale], np.float32)
    assert tensors["transformer.ln_f.weight"].dtype == ml_dtypes.bfloat16
    save_file(tensors, weights)
    return checkpoint
