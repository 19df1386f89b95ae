"""Bounds that hold at every moment of a run, so that scoring may stop as soon as they decide.

The unit is the prompt; its number is the mean of something per position. Wealth is bet on each
prompt in turn: under "the mean is at most m" a bettor who stakes the fixed fraction g multiplies
it by `1 + g (x/m - 1)`, which is at least `1 - g` and on average at most 1, whatever the
distribution, its variance or its tail. By Ville's inequality it reaches 1/alpha with a probability
of at most alpha, at any time at all; the m that it refutes are a confidence sequence (I. Waudby-
Smith and A. Ramdas, Estimating means of bounded random variables by betting, J. R. Stat. Soc. B 86
(2024) 1-27, arXiv 2010.09686). Wealth is spread evenly over several g, whose mean is again wealth.

Rules:

- above, a mean of numbers without an upper bound cannot be bounded: the upper bound is of the
  mean *winsorised* at a ceiling (`CLIP` limits), and is infinite once a prompt was above it;
- prompts of several kinds come in rounds of about the same mixture. Fractions are fixed
  beforehand, so by the inequality of the means a whole round multiplies wealth by at most 1 on
  average where the mean *over the round* is within m. Inside a round a bound holds as if the
  rest of it were the worst there can be: each pending prompt costs a factor `1 - g`.

Example:
    >>> import numpy as np
    >>> far = np.array([0.08, 0.11, 0.07, 0.1])
    >>> lower_bound(far, alpha=0.01) > 0.0025
    True
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

METHOD = "betting confidence sequence over prompts, Waudby-Smith and Ramdas 2024"

ABOVE = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
"""Fractions staked on a mean above m: small ones for small excesses, large ones for gross ones."""

BELOW = np.array([0.3, 0.98])
"""Fractions staked on a mean below m: under the ceiling little can be lost, so large ones."""

CLIP = 6.0
"""The ceiling of the upper bound, in limits.

Where nothing is found, some `log(beta) / log(1 - 1/CLIP)` prompts prove a mean below the limit: 29
at 0.005. Healthy engines whose recipe rounds activations were at most at 1.7 limits in any prompt
(three engines of SmolLM2-135M, 24 prompts). What the ceiling cuts off is counted in
benchmarks/README.md.
"""

_NOTHING = 1e-200
"""What is smaller is no divergence, and its fractions are not even doubles."""

_STEPS = 60
"""Halvings of the bracket of a bound: to the last bits of a double."""


def log_wealth_above(x: Doubles, m: float, pending: int = 0) -> float:
    """Returns the logarithm of the wealth won against "the mean of x is at most m"."""
    won = np.log1p(np.multiply.outer(ABOVE, x / m - 1.0)).sum(axis=1)
    return _log_mean_exp(won + pending * np.log1p(-ABOVE))


def log_wealth_below(y: Doubles, m: float, ceiling: float, pending: int = 0) -> float:
    """Returns the logarithm of the wealth won against "the mean of y is at least m".

    No y may be above the ceiling, and m must be below it.
    """
    gain = (m - y) / (ceiling - m)
    won = np.log1p(np.multiply.outer(BELOW, gain)).sum(axis=1)
    return _log_mean_exp(won + pending * np.log1p(-BELOW))


def lower_bound(x: Doubles, *, alpha: float, pending: int = 0) -> float:
    """Returns a lower bound of the mean of numbers that are not negative; 0 where none is known.

    `pending` counts the prompts of an open round that were not scored yet.
    """
    _check_level(alpha)
    high = float(x.max()) if len(x) else 0.0
    if not math.isfinite(high):
        raise ValueError("a bound needs finite numbers")
    if high < _NOTHING:
        return 0.0

    def refuted(m: float) -> bool:
        return log_wealth_above(x, m, pending) >= -math.log(alpha)

    low = high * 1e-12
    return _edge(low, high, refuted, rising=False) if refuted(low) else 0.0


def upper_bound(x: Doubles, *, ceiling: float, alpha: float, pending: int = 0) -> float:
    """Returns an upper bound of the mean of numbers winsorised at a ceiling.

    Infinite where a number is above the ceiling, or there are too few to exclude any mean below it.
    Numbers below -ceiling are raised to it, which can only raise the bound.
    """
    _check_level(alpha)
    if len(x) == 0 or not float(x.max()) <= ceiling:
        return math.inf
    y = np.maximum(x, -ceiling)

    def refuted(m: float) -> bool:
        return log_wealth_below(y, m, ceiling, pending) >= -math.log(alpha)

    low, high = float(y.min()), ceiling * (1.0 - 1e-9)
    return _edge(low, high, refuted, rising=True) if refuted(high) else math.inf


def prompts_to_decide(
    x: Doubles, *, limit: float, alpha: float, beta: float, ceiling: float
) -> int | None:
    """Estimates how many more prompts like these would decide; None if not even many would.

    Goes by the mean growth of the better side's best stake: a plan, not a promise.
    """
    y = np.clip(x, -ceiling, ceiling)
    above = np.log1p(np.multiply.outer(ABOVE, np.maximum(x, 0.0) / limit - 1.0)).mean(axis=1)
    below = np.log1p(np.multiply.outer(BELOW, (limit - y) / (ceiling - limit))).mean(axis=1)
    needed = [
        math.ceil((math.log(len(rates)) - math.log(level)) / float(rates.max()))
        for rates, level in ((above, alpha), (below, beta))
        if float(rates.max()) > 0.0
    ]
    return max(min(needed) - len(x), 1) if needed else None


def _edge(low: float, high: float, refuted: Callable[[float], bool], *, rising: bool) -> float:
    """Returns where `refuted` changes, on the side that is not refuted less than is true."""
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if refuted(middle) == rising:
            high = middle
        else:
            low = middle
    return high if rising else low


def _log_mean_exp(values: Doubles) -> float:
    largest = float(values.max())
    return largest + math.log(float(np.exp(values - largest).mean()))


def _check_level(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"an error rate is between 0 and 1, not {alpha}")
