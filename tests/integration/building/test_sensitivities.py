"""The fault dictionary on a real model: gains that were put into weights are named by outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
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
            "positions": 30, "codes": {"bits": 4, "group": 64},
            "targets": {"twin": str(self.path("twin"))},
            "output": str(self.path("atoms")),
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

    def engine(
        self, name: str, tensor: str | None, gain: float, nudge: float = 0.0, *, codes: float = 0.0
    ) -> Scores:
        """Another execution of the model, with one fault, in noise: a bfloat16 kernel's is 2e-3."""
        copy = self.bench.folder / f"{name}-model"
        shutil.copytree(self.model, copy)
        weights = {
            k: v.astype(np.float32) for k, v in load_file(copy / "model.safetensors").items()
        }
        if tensor is not None:
            weight = weights[f"{tensor}.weight"]
            weights[f"{tensor}.weight"] = weight * np.float32(gain) + _steps(weight, codes)
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        noise = {"nudge": {"relative": nudge, "seed": 5}} if nudge else {}
        return self.score(copy, name, {"twin": str(self.path("twin"))}, **noise)

    def moved(self, engine: Scores) -> NDArray[np.float64]:
        """How far an engine is from the twin where the dictionary is."""
        starts = [span.start for span in self.twin.spans()]
        spans = zip(self.dictionary.prompts, self.dictionary.lengths, strict=True)
        rows = np.concatenate([np.arange(starts[n], starts[n] + size) for n, size in spans])
        gap = engine.at["twin"].astype(np.float64) - self.twin.top_logprobs
        found: NDArray[np.float64] = gap[rows]
        return found


def _steps(weight: NDArray[np.float32], codes: float) -> NDArray[np.float32]:
    """What so many codes are in groups of 64 columns whose largest weight has the code 7."""
    if codes == 0.0:
        return np.zeros_like(weight)
    groups = weight.reshape(len(weight), -1, 64)
    scales = np.abs(groups).max(axis=2, keepdims=True) / np.float32(7)
    return (np.float32(codes) * np.broadcast_to(scales, groups.shape)).reshape(weight.shape)


DERIVED = (
    "model.layers.0.input_layernorm", "model.layers.1.post_attention_layernorm",
    "model.layers.1.self_attn.k_proj", "model.layers.0.self_attn.v_proj",
    "model.layers.0.mlp.up_proj", "model.norm",
)  # fmt: skip
"""All but the last have no pass of their own."""


def test_sensitivities_are_slopes_and_name_gains_by_the_outputs_alone(bench: Bench) -> None:
    lab = Lab(bench)
    for number, tensor in enumerate(DERIVED):
        slope = lab.moved(lab.engine(f"d{number}", tensor, 1.001)) / 1e-3
        atom = lab.dictionary.atoms[lab.dictionary.names.index(tensor)]
        assert np.linalg.norm(slope - atom) < 0.05 * np.linalg.norm(slope), tensor
    shifted = lab.engine("shifted", "model.layers.1.mlp.down_proj", 1.0, codes=0.01)
    atom = lab.dictionary.atoms[
        lab.dictionary.names.index("model.layers.1.mlp.down_proj.zero_point")
    ]
    assert np.linalg.norm(lab.moved(shifted) / 0.01 - atom) < 0.05 * np.linalg.norm(atom)
    assert lab.dictionary.lengths == (30, 30, 25, 30, 30, 28)

    linears = [name for name in lab.dictionary.names if name.endswith(("proj", "head"))]
    assert len(linears) == 15
    others = {"rope base", "rms_norm_eps", "model.norm", "model.layers.1.self_attn.kv_cache"}
    assert others <= set(lab.dictionary.names)

    healthy = lab.engine("healthy", None, 1.0, 2e-3)
    assert explain(lab.dictionary, lab.twin, healthy) == ()

    for number, (tensor, gain) in enumerate(FAULTS.items()):
        found = explain(lab.dictionary, lab.twin, lab.engine(f"f{number}", tensor, gain, 2e-3))
        assert found, tensor
        assert tensor in found[0].names
        assert found[0].gain == pytest.approx(gain - 1.0, rel=0.25)
