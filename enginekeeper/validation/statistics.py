"""Confidence bounds with prompts, not tokens, as the independent unit.

Tokens of one prompt are correlated: a design effect of 4 to 40 was measured, so an interval over
tokens would be two to six times too narrow. A mean per position is therefore a ratio of two sums
over prompts, and its error is the spread of the prompts' residuals around that ratio (Cochran,
Sampling Techniques, 3rd ed., section 6.4).

Per-prompt divergences are skewed to the right and few, where Student's t is too optimistic above
and too pessimistic below. The bounds use Hall's monotone cubic transformation of the t statistic
(P. Hall, On the removal of skewness by transformation, J. R. Stat. Soc. B 54 (1992) 221-228):
closed form, no random numbers, so the same scores always give the same verdict. What remains of
the error is measured by `benchmarks/bound_coverage.py` and stated in docs/validation.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

METHOD = "Hall 1992 skewness-corrected t over prompts, ratio of sums"

FEWEST_PROMPTS = 8
"""Below this a sample skewness says nothing, and no bound is given."""


@dataclass(frozen=True)
class Estimate:
    """A mean per position with one-sided bounds; each bound has its own level."""

    value: float
    lower: float
    upper: float
    prompts: int
    spread: float
    """Standard deviation of one prompt's contribution, in the unit of the value."""

    def prompts_to_decide(self, limit: float, confidence: float) -> int | None:
        """Estimates how many prompts would put `limit` outside the bounds; None if it never would.

        Assumes that further prompts are like these, and ignores skewness: a plan, not a promise.
        """
        distance = abs(limit - self.value)
        if distance == 0.0:
            return None
        quantile = float(stats.norm.ppf(confidence))
        return max(self.prompts + 1, int(np.ceil((quantile * self.spread / distance) ** 2)))


def estimate(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    *,
    lower_confidence: float,
    upper_confidence: float,
) -> Estimate | None:
    """Bounds the mean per position from each prompt's sum and size; None with too few prompts."""
    used = sizes > 0
    sums, sizes = sums[used], sizes[used]
    count = len(sums)
    if count < FEWEST_PROMPTS:
        return None
    value = float(sums.sum() / sizes.sum())
    residuals = (sums - value * sizes) / sizes.mean()
    largest = float(np.abs(residuals).max())
    if largest <= 1e-12 * abs(value):  # rounding noise: all prompts say the same
        return Estimate(value, value, value, count, 0.0)
    residuals /= largest  # so that cubes of tiny numbers do not vanish
    spread = largest * float(residuals.std(ddof=1))
    skewness = float(stats.skew(residuals)) / np.sqrt(count)
    scale = spread / np.sqrt(count)
    low = float(stats.t.ppf(lower_confidence, count - 1))
    high = float(stats.t.ppf(upper_confidence, count - 1))
    return Estimate(
        value,
        value - scale * _unskewed(low, skewness),
        value - scale * _unskewed(-high, skewness),
        count,
        spread,
    )


def _unskewed(quantile: float, a: float) -> float:
    """Inverts Hall's transformation g(t) = t + a t²/3 + a² t³/27 + a/6."""
    if abs(a) < 1e-6:  # the limit; below it the closed form loses its digits  # noqa: PLR2004
        return quantile
    return float(3.0 / a * (np.cbrt(1.0 + a * (quantile - a / 6.0)) - 1.0))


def hazard_exceeds(
    events: int, exposures: int, background_events: int, background_exposures: int
) -> float:
    """Returns the one-sided p-value that `events` come at a higher rate than the background's.

    Fisher's exact test: no large-sample approximation, so it holds for the handful of events that
    a healthy engine shows.
    """
    table = np.asarray(
        [
            [events, exposures - events],
            [background_events, background_exposures - background_events],
        ]
    )
    return float(stats.fisher_exact(table, alternative="greater").pvalue)
