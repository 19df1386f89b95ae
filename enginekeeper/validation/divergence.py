"""How far one arm's predictions are from another's, position by position.

The Kullback-Leibler divergence KL(P‖Q) is computed on the partition {each of P's K best tokens,
everything else}. Merging outcomes never increases a divergence (the log-sum inequality; Cover and
Thomas, Elements of Information Theory, 2nd ed., theorem 2.7.1: for the rest,
sum_i p_i ln(p_i/q_i) >= (sum p_i) ln(sum p_i / sum q_i)), so what is reported is a lower bound of
the divergence over the whole vocabulary, with equality at K = the vocabulary. It has no noise
floor of its own: equal arms give exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from enginekeeper.errors import InputError
from enginekeeper.validation.scores import Floats, Scores
from enginekeeper.validation.tokens import TokenizedSuite

Doubles = NDArray[np.float64]

WINDOW = 32
"""Positions in a window; long enough to average single tokens out, short enough to read."""

SMALLEST_REST = 1e-7
"""The least mass given to 'everything else': what float32 log-probabilities can still resolve."""

TIE = 1e-6
"""Two log-probabilities this close are a tie, and either token is the best one."""


def kl_on_partition(p: Floats, q: Floats) -> Doubles:
    """Returns KL(P‖Q) in nats for each row, from both arms' log-probabilities at P's best tokens.

    Accurate to 1e-6 nats where Q leaves everything else SMALLEST_REST or more. The mass of
    everything else is a difference of float32 numbers and is floored there in both arms alike:
    where Q leaves it less, the divergence is understated, by P's mass of it times the logarithm of
    how much the floor raised Q's.
    """
    p_parts, q_parts = _partition(p), _partition(q)
    terms = np.where(p_parts > 0, p_parts * (np.log(p_parts) - np.log(q_parts)), 0.0)
    divergence: Doubles = np.maximum(terms.sum(axis=1), 0.0)
    return divergence


def _partition(logprobs: Floats) -> Doubles:
    """Returns K + 1 probabilities per row that sum to 1, the last being everything else."""
    best = np.exp(np.maximum(logprobs.astype(np.float64), -700.0))  # exp(-745) is 0, its log -inf
    rest = np.maximum(1.0 - best.sum(axis=1, keepdims=True), SMALLEST_REST)
    parts = np.concatenate([best, rest], axis=1)
    normalized: Doubles = parts / parts.sum(axis=1, keepdims=True)
    return normalized


@dataclass(frozen=True)
class Window:
    """The consecutive positions of one prompt with the highest mean divergence."""

    prompt: str
    stratum: str
    start: int
    stop: int
    kl: float


@dataclass(frozen=True)
class Comparison:
    """KL(P‖Q) and what goes with it over a suite; rows that are not finite in either arm are out.

    How many rows are out is in `excluded`: whoever judges fails or doubts on it.
    """

    tokens: TokenizedSuite
    offsets: NDArray[np.int64]
    kept: NDArray[np.bool_]
    kl: Doubles
    agree: NDArray[np.bool_]
    """Whether Q's best token is P's, ties counted as agreement."""
    loss: Doubles
    """How much less likely Q finds the true next token: ln p - ln q, in nats, signed."""

    @property
    def excluded(self) -> int:
        """How many positions had a non-finite row in one of the arms."""
        return int((~self.kept).sum())

    @property
    def positions(self) -> int:
        """How many positions the numbers are over."""
        return int(self.kept.sum())

    @cached_property
    def sizes(self) -> Doubles:
        """How many positions each prompt contributes."""
        return self.per_prompt(np.ones(len(self.kl)))

    def per_prompt(self, values: NDArray[np.generic]) -> Doubles:
        """Sums per-position values over each prompt, kept positions only."""
        numbers = np.where(self.kept, values.astype(np.float64), 0.0)
        sums: Doubles = np.add.reduceat(numbers, self.offsets[:-1])
        return sums

    def mean(self, values: NDArray[np.generic]) -> float:
        """Averages per-position values over all kept positions."""
        return float(values[self.kept].astype(np.float64).mean()) if self.positions else 0.0

    def quantile(self, fraction: float) -> float:
        """Returns a quantile of the per-position divergence."""
        return float(np.quantile(self.kl[self.kept], fraction)) if self.positions else 0.0

    def by_stratum(self) -> dict[str, float]:
        """Returns the mean divergence of each kind of text, in order of appearance."""
        sums = self.per_prompt(self.kl)
        means: dict[str, float] = {}
        for stratum in dict.fromkeys(prompt.stratum for prompt in self.tokens.prompts):
            mine = np.asarray([prompt.stratum == stratum for prompt in self.tokens.prompts])
            means[stratum] = float(sums[mine].sum() / max(self.sizes[mine].sum(), 1.0))
        return means

    def worst_window(self) -> Window:
        """Finds the WINDOW positions of one prompt that diverge most; short prompts count whole."""
        return max(self.windows(), key=lambda window: window.kl)

    def windows(self) -> list[Window]:
        """Returns the worst window of every prompt."""
        windows = []
        kl = np.where(self.kept, self.kl, 0.0)
        for prompt, start, stop in zip(
            self.tokens.prompts, self.offsets[:-1], self.offsets[1:], strict=True
        ):
            width = min(WINDOW, int(stop - start))
            means = np.convolve(kl[start:stop], np.full(width, 1.0 / width), mode="valid")
            at = int(means.argmax())
            windows.append(Window(prompt.id, prompt.stratum, at, at + width, float(means[at])))
        return windows


def same_choices(p: Scores, q: Scores) -> NDArray[np.bool_]:
    """Says at which positions Q chose P's best token, or one that is tied with it.

    Unlike `compare` it needs nothing of Q but its choices.
    """
    best = p.top_logprobs[:, :1] - TIE
    chosen = (p.top_ids == q.top_ids[:, :1]) & (p.top_logprobs >= best)
    found: NDArray[np.bool_] = chosen.any(axis=1)
    return found


def compare(p: Scores, q: Scores, tokens: TokenizedSuite, *, at: str) -> Comparison:
    """Compares arm Q with arm P, where Q was scored at P's best tokens under the name `at`."""
    there = q.at.get(at)
    if there is None or there.shape != p.top_logprobs.shape:
        raise InputError(
            f"the {q.arm} was not scored at the best tokens of the {p.arm}",
            where=f"at_{at}",
            actual=None if there is None else f"shape {there.shape}",
            expected=f"shape {p.top_logprobs.shape}",
            remedy="score it again with that file as a target",
        )
    kept = p.finite & q.finite
    kl = np.zeros(p.positions)
    kl[kept] = kl_on_partition(p.top_logprobs[kept], there[kept])
    agree = np.zeros(p.positions, dtype=np.bool_)
    agree[kept] = there[kept, 0] >= q.top_logprobs[kept, 0] - TIE
    loss = np.zeros(p.positions)
    loss[kept] = p.target_logprobs[kept].astype(np.float64) - q.target_logprobs[kept]
    return Comparison(tokens, p.offsets, kept, kl, agree, loss)
