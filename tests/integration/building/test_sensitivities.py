"""The fault dictionary on a real model: gains that were put into weights are named by outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from enginekeeper.validation.dictionary import Dictionary, explain, load_dictionary
from enginekeeper.validation.scores import Scores, load_scores
from enginekeeper.validation.tokens import TokenizedSuite, load_tokens
from tests.factories.engine_bench import Bench
from tests.factories.tiny_llama import VOCABULARY, llama_config, random_weights, write_model

pytestmark = pytest.mark.toolchain

LENGTHS = (40, 31, 26, 48, 37, 29)
TOP_K = 16
GREEDY = {"prefix": 8, "tokens": 2}

FAULTS = {
    "model.layers.1.mlp.down_proj": 1.01,
    "model.layers.0.self_attn.v_proj": 0.97,
    "model.layers.1.self_attn.q_proj": 1.10,
    "lm_head": 1.02,
}


class Lab:
    """A tiny model, its scores, its dictionary, and copies of it with a fault."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.model = write_model(bench.folder / "model", llama_config(), random_weights())
        self.tokens = bench.tokens(VOCABULARY, LENGTHS)
        self.suite: TokenizedSuite = load_tokens(self.tokens)
        self.twin = self.score(self.model, "twin", {})
        job = {
            "twin": str(self.model), "tokens": str(self.tokens), "prompts": list(range(6)),
            "targets": {"twin": str(self.path("twin"))}, "output": str(self.path("atoms")),
        }  # fmt: skip
        bench.run("sensitivities", job, "atoms")
        self.dictionary: Dictionary = load_dictionary(self.path("atoms"))

    def path(self, name: str) -> Path:
        return self.bench.folder / f"{name}.safetensors"

    def score(self, model: Path, name: str, targets: dict[str, str], **more: object) -> Scores:
        job = {
            "twin": str(model), "tokens": str(self.tokens), "targets": targets, "top_k": TOP_K,
            "greedy": GREEDY, "output": str(self.path(name)), **more,
        }  # fmt: skip
        self.bench.run("score_twin", job, name)
        return load_scores(self.path(name), self.suite)

    def engine(self, name: str, tensor: str | None, gain: float, nudge: float) -> Scores:
        """Another execution of the model, in noise of a bfloat16 kernel's size, with one fault."""
        copy = self.bench.folder / f"{name}-model"
        shutil.copytree(self.model, copy)
        weights = {
            k: v.astype(np.float32) for k, v in load_file(copy / "model.safetensors").items()
        }
        if tensor is not None:
            weights[f"{tensor}.weight"] = weights[f"{tensor}.weight"] * np.float32(gain)
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        noise = {"relative": nudge, "seed": 5}
        return self.score(copy, name, {"twin": str(self.path("twin"))}, nudge=noise)


def test_gains_are_named_by_the_outputs_alone(bench: Bench) -> None:
    lab = Lab(bench)
    linears = [name for name in lab.dictionary.names if name.endswith(("proj", "head"))]
    assert len(linears) == 15
    assert {"rope base", "rms_norm_eps", "model.norm"} <= set(lab.dictionary.names)

    healthy = lab.engine("healthy", None, 1.0, 2e-3)
    assert explain(lab.dictionary, lab.twin, healthy) == ()

    for number, (tensor, gain) in enumerate(FAULTS.items()):
        found = explain(lab.dictionary, lab.twin, lab.engine(f"f{number}", tensor, gain, 2e-3))
        assert found, tensor
        assert tensor in found[0].names
        assert found[0].gain == pytest.approx(gain - 1.0, rel=0.25)
