"""Measures how often the verdict's bounds miss the truth on skewed small samples.

`python benchmarks/bound_coverage.py` prints a Markdown table. Prompts are log-normal around a mean
of 1, as divergences per prompt roughly are; the bounds are those of the verdict, at 99 %, with
Student's t over the same prompts beside them. A miss of the upper bound lets a bad engine pass; a
miss of the lower bound stops a good one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from enginekeeper.validation.statistics import estimate

CONFIDENCE = 0.99
RUNS = 20_000


def student(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the one-sided bounds most tools would give."""
    half = float(stats.t.ppf(CONFIDENCE, len(values) - 1)) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def ours(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the bounds of the verdict."""
    result = estimate(
        values,
        np.ones(len(values)),
        lower_confidence=CONFIDENCE,
        upper_confidence=CONFIDENCE,
    )
    if result is None:
        raise ValueError(f"{len(values)} prompts are too few for a bound")
    return result.lower, result.upper


def main() -> None:
    """Prints one row per number of prompts and coefficient of variation."""
    print("| prompts | CV | upper misses | t upper | lower misses | t lower |")
    print("|---|---|---|---|---|---|")
    for prompts in (24, 96):
        for variation in (0.4, 1.0, 2.0):
            generator = np.random.default_rng(0)
            sigma = np.sqrt(np.log(1 + variation**2))
            misses = np.zeros(4)
            for _ in range(RUNS):
                sample = np.exp(sigma * generator.standard_normal(prompts) - sigma**2 / 2)
                (low, high), (t_low, t_high) = ours(sample), student(sample)
                misses += np.array([high < 1.0, t_high < 1.0, low > 1.0, t_low > 1.0])
            cells = " | ".join(f"{100 * miss / RUNS:.2f} %" for miss in misses)
            print(f"| {prompts} | {variation} | {cells} |")


if __name__ == "__main__":
    main()
