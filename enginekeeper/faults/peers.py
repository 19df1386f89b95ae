"""What others would have said of the same engine on the same tokens: their rules, from their text.

Every rule is applied to teacher-forced predictions of the same prompts, because generating anew for
each would be another experiment; where the original compares generated text, the most probable
tokens along the prompt stand for it. That is said in the rule's name. No constant is ours.

- Perplexity within 1 % or 5 %: Microsoft Olive's `percent-max-degradation` (`olive/evaluator`,
  ee6f40fb), GPTQModel's `floor_pct` of 5 % (`tests/models/model_test.py`, f4c327a1).
- vLLM `check_logprobs_close` (`tests/models/utils.py`, 002b4cf8): at the first token that differs
  each side's must be among the other's top k, then the comparison ends; k is 8 and eight prompts
  of 32 tokens are compared as in `tests/models/quantization/test_fp8.py`.
- llama.cpp `llama-perplexity --kl-divergence` (`tools/perplexity/perplexity.cpp`, 050fc7f3): mean
  KL of the base with a standard error of independent tokens, sqrt(var / (n - 1)).
- TensorRT Model Connect's composite gate (`tests/e2e/models/*/e2e_plugins/comparators/text.py`,
  e9132e79) with its default thresholds; NaN becomes 0 before the metrics, as there.
- TensorRT-LLM's hypothesis test (`tests/integration/defs/accuracy/accuracy_core.py`, 00c11460):
  fails below reference - z(alpha) * sqrt(2 * sigma^2 / n), alpha 0.05, sigma 50, unpaired; the task
  is the next token, right or wrong.
- Plain KL(source, engine) over the same of a healthy engine, alarm above 1.10.

"Against a good build" gives the rule a healthy engine's own value on the same tokens, which in
practice nobody has; without it, a lossy recipe fails for what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from enginekeeper.validation.divergence import Comparison, compare
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite

Doubles = NDArray[np.float64]

TOP = 8
WINDOW = 32
PROMPTS = 8
RATIO = 1.10
ALPHA = 0.05
SIGMA = 50.0
Z_95 = 1.959964
MARGIN = 0.1
GATE = {"cosine": 0.99, "distance": 0.05, "stable": 0.9, "unstable": 0.8, "agree": 0.8, "ned": 0.2}


@dataclass(frozen=True)
class Seen:
    """What a rule may look at: one engine, its source and a good build of the same recipe."""

    tokens: TokenizedSuite
    source: Scores
    engine: Scores
    good: Scores
    beside: Mapping[str, Doubles]
    """Of each position: cosine and relative distance of the logits to the source's."""

    @property
    def engine_loss(self) -> Comparison:
        """The engine against the source."""
        return compare(self.source, self.engine, self.tokens, at="source")

    @property
    def good_loss(self) -> Comparison:
        """The good build against the source."""
        return compare(self.source, self.good, self.tokens, at="source")


def _perplexity(share: float, *, of_good: bool) -> Callable[[Seen], bool]:
    def rule(seen: Seen) -> bool:
        if not seen.engine.finite.all():
            return True  # the mean is NaN: nobody takes that for a number
        base = seen.good if of_good else seen.source
        gap = base.target_logprobs.astype(np.float64) - seen.engine.target_logprobs
        return bool(gap.mean() > math.log1p(share))

    return rule


def _logprobs_close(seen: Seen) -> bool:
    """Alarms if a window has a first difference outside the other's best tokens."""
    ours, theirs = seen.engine.top_ids, seen.source.top_ids
    for span in list(seen.engine.spans())[:PROMPTS]:
        window = slice(span.start, min(span.start + WINDOW, span.stop))
        for mine, other in zip(ours[window], theirs[window], strict=True):
            if mine[0] != other[0]:
                if mine[0] not in other[:TOP] or other[0] not in mine[:TOP]:
                    return True
                break
    return False


def _kl_statistics(seen: Seen) -> bool:
    """Alarms if the engine's interval lies above the good build's."""
    if not seen.engine.finite.all():
        return True
    low = _interval(seen.engine_loss.kl)[0]
    return low > _interval(seen.good_loss.kl)[1]


def _interval(values: Doubles) -> tuple[float, float]:
    mean = float(values.mean())
    error = math.sqrt(float(values.var()) / (len(values) - 1))
    return mean - Z_95 * error, mean + Z_95 * error


def _composite_gate(seen: Seen) -> bool:
    cosine = float(np.quantile(np.nan_to_num(seen.beside["logit_cosine"]), 0.05))
    distance = float(np.quantile(np.nan_to_num(seen.beside["logit_distance"]), 0.95))
    best = seen.source.top_ids[:, 0]
    same = seen.engine.top_ids[:, 0] == best
    stable = seen.source.top_logprobs[:, 0] - seen.source.top_logprobs[:, 1] >= MARGIN
    among = (seen.engine.top_ids[:, :5] == best[:, None]).any(axis=1)
    close = cosine >= GATE["cosine"] or distance <= GATE["distance"]
    margins = _share(same[stable]) >= GATE["stable"] and _share(among[~stable]) >= GATE["unstable"]
    agrees = _share(same) >= GATE["agree"] or margins
    return not (close and agrees and _edit_distance(seen) <= GATE["ned"])


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else 1.0


def _edit_distance(seen: Seen) -> float:
    """Returns the mean edit distance of the most probable tokens, over the longer's length."""
    distances = [
        levenshtein(seen.engine.top_ids[span, 0], seen.source.top_ids[span, 0])
        / max(span.stop - span.start, 1)
        for span in seen.engine.spans()
    ]
    return float(np.mean(distances))


def levenshtein(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Returns how many insertions, deletions and exchanges lead from one to the other."""
    places = np.arange(len(other) + 1)
    row = places.copy()
    for number, token in enumerate(one, 1):
        exchanged = np.concatenate(([number], np.minimum(row[1:] + 1, row[:-1] + (other != token))))
        # an insertion costs 1 more than what stands left of it
        row = np.minimum.accumulate(exchanged - places) + places
    return int(row[-1])


def _unpaired_test(seen: Seen) -> bool:
    following = np.concatenate([np.asarray(p.ids[1:]) for p in seen.tokens.prompts])
    score = 100.0 * _share(seen.engine.top_ids[:, 0] == following)
    reference = 100.0 * _share(seen.good.top_ids[:, 0] == following)
    spread = math.sqrt(2.0 * SIGMA**2 / len(following))
    return score < reference - float(stats.norm.ppf(1.0 - ALPHA)) * spread


def _kl_ratio(seen: Seen) -> bool:
    if not seen.engine.finite.all():
        return True
    return bool(seen.engine_loss.kl.mean() > RATIO * seen.good_loss.kl.mean())


RULES: Mapping[str, Callable[[Seen], bool]] = {
    "perplexity, 1 % of the source": _perplexity(0.01, of_good=False),
    "perplexity, 5 % of the source": _perplexity(0.05, of_good=False),
    "perplexity, 1 % of a good build": _perplexity(0.01, of_good=True),
    "perplexity, 5 % of a good build": _perplexity(0.05, of_good=True),
    "vLLM check_logprobs_close, along the prompt": _logprobs_close,
    "llama.cpp KL, intervals apart": _kl_statistics,
    "Model Connect composite gate, along the prompt": _composite_gate,
    "TensorRT-LLM unpaired test, next token": _unpaired_test,
    "KL(source, engine) 1.10 x a good build": _kl_ratio,
}
"""By the name it has in the table: whether the rule alarms."""


def alarms(seen: Seen) -> dict[str, bool]:
    """Returns what every rule says."""
    return {name: rule(seen) for name, rule in RULES.items()}
