"""What two arms continue alike: the only evidence here that went through the decode path.

A fault of the decode path (a KV-cache scale that only generation reads, say) leaves every
teacher-forced number untouched. Before two continuations first differ, both arms saw the same
tokens, so the log-probabilities of the tokens they agreed on are comparable, and how soon they
part is comparable with how often the same arms disagree in prefill. A step whose logits are not
all finite ends what is compared, and is itself a failure of `fidelity.finite`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enginekeeper.errors import InputError
from enginekeeper.validation.divergence import Comparison, Doubles
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite


@dataclass(frozen=True)
class GreedyComparison:
    """Two arms' greedy continuations of the same prefixes."""

    first_difference: tuple[int | None, ...]
    """For each prompt the first step at which the arms chose differently; None if never."""
    steps: tuple[int, ...]
    """For each prompt how many steps were compared, the differing one included."""
    gap: Doubles
    """For each prompt the sum over agreed decode steps of half the squared log-probability gap.

    To second order KL(P‖Q) is half the mean square of ln p - ln q, hence nats.
    """
    gap_steps: Doubles
    """For each prompt how many agreed decode steps that sum is over; step 0 is prefill's."""

    @property
    def agreement(self) -> float:
        """The share of prompts continued alike to the end."""
        alike = sum(difference is None for difference in self.first_difference)
        return alike / len(self.first_difference)

    @property
    def decode_flips(self) -> int:
        """How many prompts first differ at a decode step."""
        return sum(step is not None and step > 0 for step in self.first_difference)

    @property
    def decode_exposures(self) -> int:
        """At how many decode steps a first difference could have come."""
        return sum(max(steps - 1, 0) for steps in self.steps)


def compare_greedy(p: Scores, q: Scores) -> GreedyComparison:
    """Compares two arms' continuations up to the first difference of each prompt."""
    if p.greedy_ids.shape != q.greedy_ids.shape:
        raise InputError(
            "the arms continued another number of prompts or tokens",
            actual=q.greedy_ids.shape,
            expected=p.greedy_ids.shape,
            remedy="score both with the same greedy settings",
        )
    differences: list[int | None] = []
    steps: list[int] = []
    gaps: list[tuple[float, int]] = []
    for row in range(p.prompts):
        length = int(max((p.greedy_ids[row] != -1).sum(), (q.greedy_ids[row] != -1).sum()))
        length = min(length, _sound_steps(p, row), _sound_steps(q, row))
        differing = np.flatnonzero(p.greedy_ids[row, :length] != q.greedy_ids[row, :length])
        first = int(differing[0]) if len(differing) else None
        agreed = length if first is None else first
        differences.append(first)
        steps.append(length if first is None else first + 1)
        gaps.append(_gap(p.greedy_logprobs[row, 1:agreed], q.greedy_logprobs[row, 1:agreed]))
    return GreedyComparison(
        tuple(differences),
        tuple(steps),
        np.asarray([gap for gap, _ in gaps]),
        np.asarray([float(count) for _, count in gaps]),
    )


def decode_against_prefill(
    scores: Scores, tokens: TokenizedSuite, prefix: int
) -> tuple[Doubles, Doubles]:
    """Compares one arm's decode path with its own prefill where both saw the same tokens.

    That is as long as the continuation repeats the prompt. Returns for each prompt the sum of half
    the squared gap and the number of steps; step 0 is prefill's on both sides and left out.
    """
    gaps: list[tuple[float, int]] = []
    longest = scores.greedy_ids.shape[1]
    for row, (prompt, span) in enumerate(zip(tokens.prompts, scores.spans(), strict=True)):
        told = np.asarray(prompt.ids[prefix:-1], dtype=np.int32)[:longest]
        said = scores.greedy_ids[row, : len(told)]
        parted = np.flatnonzero(said != told)
        repeated = int(parted[0]) if len(parted) else len(told)
        steps = np.arange(1, min(repeated, longest - 1) + 1)
        positions = span.start + prefix - 1 + steps
        said = scores.greedy_ids[row, steps] != -1
        usable = said & scores.decode_finite[row, steps] & scores.finite[positions]
        prefill = scores.top_logprobs[positions[usable], 0]
        gaps.append(_gap(prefill, scores.greedy_logprobs[row, steps[usable]]))
    return np.asarray([gap for gap, _ in gaps]), np.asarray([float(count) for _, count in gaps])


def expected_flips(comparison: Comparison) -> tuple[int, int]:
    """Returns how often the same two arms disagree in prefill, and of how many positions."""
    return int((~comparison.agree[comparison.kept]).sum()), comparison.positions


def _sound_steps(scores: Scores, row: int) -> int:
    """Returns how many steps there are before the first whose logits were not all finite."""
    broken = np.flatnonzero(~scores.decode_finite[row])
    return int(broken[0]) if len(broken) else scores.greedy_ids.shape[1]


def _gap(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, int]:
    difference = a.astype(np.float64) - b.astype(np.float64)
    return float((difference**2).sum() / 2.0), len(difference)
