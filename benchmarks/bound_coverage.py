"""Measures how often the verdict's bounds miss the truth on skewed small samples.

`python benchmarks/bound_coverage.py` prints a Markdown table. Prompts of eight kinds are log-normal
around the mean of their kind, as divergences per prompt roughly are; the kinds' means are spread
log-normally with a standard deviation of 0.5 and average 1. The bounds are those of the verdict,
at 99 %, with Student's t over the same prompts within the same kinds beside them. A miss of the
upper bound lets a bad engine pass; a miss of the lower bound stops a good one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from enginekeeper.validation.statistics import estimate

CONFIDENCE = 0.99
RUNS = 5_000
KINDS = 8


def bounds(values: NDArray[np.float64], kinds: NDArray[np.int64]) -> tuple[float, ...]:
    """Returns the verdict's lower and upper bound, then those of Student's t."""
    result = estimate(
        values,
        np.ones(len(values)),
        kinds,
        lower_confidence=CONFIDENCE,
        upper_confidence=CONFIDENCE,
    )
    if result is None:
        raise ValueError(f"{len(values)} prompts are too few for a bound")
    quantile = float(stats.t.ppf(CONFIDENCE, len(values) - KINDS))
    half = quantile * result.spread / np.sqrt(len(values))
    return result.lower, result.upper, result.value - half, result.value + half


def main() -> None:
    """Prints one row per number of prompts and coefficient of variation."""
    print("| prompts | CV | upper misses | t upper | lower misses | t lower |")
    print("|---|---|---|---|---|---|")
    for prompts in (24, 96):
        for variation in (0.2, 0.4, 1.0, 2.0):
            generator = np.random.default_rng(0)
            kinds = np.repeat(np.arange(KINDS), prompts // KINDS)
            means = np.exp(0.5 * generator.standard_normal(KINDS))
            means /= means.mean()
            sigma = np.sqrt(np.log(1 + variation**2))
            misses = np.zeros(4)
            for _ in range(RUNS):
                noise = np.exp(sigma * generator.standard_normal(prompts) - sigma**2 / 2)
                low, high, t_low, t_high = bounds(means[kinds] * noise, kinds)
                misses += np.array([high < 1.0, t_high < 1.0, low > 1.0, t_low > 1.0])
            cells = " | ".join(f"{100 * miss / RUNS:.2f} %" for miss in misses)
            print(f"| {prompts} | {variation} | {cells} |")


if __name__ == "__main__":
    main()
