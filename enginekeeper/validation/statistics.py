"""Confidence bounds with prompts, not tokens, as the independent unit.

Tokens of one prompt are correlated: a design effect of 4 to 40 was measured, so an interval over
tokens would be two to six times too narrow. A mean per position is therefore a ratio of two sums
over prompts, and its error is the spread of the prompts' residuals around that ratio (Cochran,
Sampling Techniques, 3rd ed., section 6.4). A suite holds fixed shares of several kinds of text, so
the spread is taken inside each kind (stratified sampling, ibid. chapter 5): that Chinese differs
from prose says nothing about how well either is known.

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

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

METHOD = "Hall 1992 skewness-corrected t over prompts within strata, ratio of sums"

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
        from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time; a plan judges nothing

        quantile = float(stats.norm.ppf(confidence))
        return max(self.prompts + 1, int(np.ceil((quantile * self.spread / distance) ** 2)))


def estimate(
    sums: Doubles,
    sizes: Doubles,
    strata: Labels,
    *,
    lower_confidence: float,
    upper_confidence: float,
) -> Estimate | None:
    """Bounds the mean per position from each prompt's sum, size and kind; None if too few."""
    used = sizes > 0
    sums, sizes, strata = sums[used], sizes[used], _without_singles(strata[used])
    count = len(sums)
    if count < FEWEST_PROMPTS:
        return None
    value = float(sums.sum() / sizes.sum())
    residuals = (sums - value * sizes) / sizes.mean()
    largest = float(np.abs(residuals).max())
    if largest <= 1e-12 * abs(value):  # rounding noise: all prompts say the same
        return Estimate(value, value, value, count, 0.0)
    from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time; a plan judges nothing

    variance, skewness = _moments_of_mean(residuals / largest, strata)
    error = largest * float(np.sqrt(variance))
    freedom = count - len(np.unique(strata))
    low = float(stats.t.ppf(lower_confidence, freedom))
    high = float(stats.t.ppf(upper_confidence, freedom))
    return Estimate(
        value,
        value - error * _unskewed(low, skewness),
        value - error * _unskewed(-high, skewness),
        count,
        error * float(np.sqrt(count)),
    )


def _without_singles(strata: Labels) -> Labels:
    """Joins strata of one prompt, which have no spread, to one; the last alone joins the first."""
    labels, counts = np.unique(strata, return_counts=True)
    single = labels[counts == 1]
    joined = np.where(np.isin(strata, single), -1, strata)
    if len(single) == 1 and len(labels) > 1:
        joined = np.where(joined == -1, labels[counts > 1][0], joined)
    return joined


def _moments_of_mean(residuals: Doubles, strata: Labels) -> tuple[float, float]:
    """Returns the variance and the skewness of the mean, from unbiased cumulants per stratum."""
    second = third = 0.0
    for label in np.unique(strata):
        mine = residuals[strata == label]
        deviations, n = mine - mine.mean(), len(mine)
        second += n * float((deviations**2).sum()) / (n - 1)
        if n > 2:  # two prompts are always symmetric  # noqa: PLR2004
            third += n * float((deviations**3).sum()) * n / ((n - 1) * (n - 2))
    if second == 0.0:
        return 0.0, 0.0
    return second / len(residuals) ** 2, third / second**1.5


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
    from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time; a plan judges nothing

    table = np.asarray(
        [
            [events, exposures - events],
            [background_events, background_exposures - background_events],
        ]
    )
    return float(stats.fisher_exact(table, alternative="greater").pvalue)
