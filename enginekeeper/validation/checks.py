"""One measured number against one limit: the smallest part of a verdict.

A check passes when its confidence bound is inside the limit, fails when the bound on the other side
is outside it, and is inconclusive between. To pass a line every check must pass, so each pass is
held to the policy's confidence as it stands (an intersection-union test); to fail a line one check
suffices, so failures share the error between the checks of the line (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enginekeeper.validation.findings import Finding
from enginekeeper.validation.statistics import FEWEST_PROMPTS, Estimate, estimate

Outcome = Literal["pass", "fail", "inconclusive", "not run", "shown"]
"""`not run` says why in its note; `shown` has no limit and decides nothing."""

Sense = Literal["at most", "at least"]


_LARGEST_EXPONENT = 700.0
"""e to the 709.8 is the largest number that a double holds."""


def ratio_of(loss: float) -> float:
    """Returns the ratio of perplexities that a difference in loss (nats) is, up to 1e304."""
    return math.exp(min(loss, _LARGEST_EXPONENT))


@dataclass(frozen=True)
class Check:
    """A number, its bounds, its limit, and how much evidence stands behind it."""

    name: str
    """`<line>.<what>`, such as `fidelity.kl`."""
    outcome: Outcome
    meaning: str
    """What was measured, for a reader who does not know the name."""
    unit: str = ""
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    limit: float | None = None
    sense: Sense = "at most"
    policy_field: str | None = None
    prompts: int = 0
    positions: int = 0
    note: str | None = None
    finding: Finding | None = None
    """What is wrong, where the check failed."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the check as JSON values with numbers to six significant digits."""
        return {
            "check": self.name,
            "result": self.outcome,
            "meaning": self.meaning,
            "unit": self.unit,
            "value": rounded(self.value),
            "lower": rounded(self.lower),
            "upper": rounded(self.upper),
            "limit": self.limit,
            "sense": self.sense,
            "policy": self.policy_field,
            "prompts": self.prompts,
            "positions": self.positions,
            "note": self.note,
        }


def rounded(value: float | None) -> float | None:
    """Rounds to six significant digits, the same on every machine; None stays None."""
    return None if value is None else float(f"{value:.6g}")


@dataclass(frozen=True)
class Limit:
    """What a mean is held against, and at which levels."""

    value: float
    sense: Sense
    confidence: float
    """Of a pass."""
    checks: int
    """How many checks of the line could fail it: they share the error of a failure."""
    policy_field: str | None = None

    @property
    def failure_confidence(self) -> float:
        """The level of the bound that must be outside the limit for a failure."""
        return 1.0 - (1.0 - self.confidence) / self.checks


@dataclass(frozen=True)
class Quantity:
    """What a check measures: each prompt's sum, size and kind, and how the mean is shown."""

    name: str
    meaning: str
    unit: str
    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]
    strata: NDArray[np.int64]
    shown_as: Callable[[float], float] = float
    """An increasing function from the mean to the number people know, such as exp."""
    least: float = -math.inf
    """The smallest mean there can be: no lower bound is shown below it."""

    def shown_lower(self, bounds: Estimate) -> float:
        """Returns the lower bound as it is shown."""
        return self.shown_as(max(bounds.lower, self.least))


def bounded(quantity: Quantity, limit: Limit) -> Check:
    """Holds a mean per position against a limit; too few prompts make it inconclusive."""
    pass_level, fail_level = limit.confidence, limit.failure_confidence
    at_most = limit.sense == "at most"
    bounds = estimate(
        quantity.sums,
        quantity.sizes,
        quantity.strata,
        lower_confidence=fail_level if at_most else pass_level,
        upper_confidence=pass_level if at_most else fail_level,
    )
    if bounds is None:
        return _unbounded(quantity, limit)
    show = quantity.shown_as
    lower, upper = quantity.shown_lower(bounds), show(bounds.upper)
    outcome = _decide(lower, upper, limit)
    return Check(
        quantity.name,
        outcome,
        quantity.meaning,
        quantity.unit,
        show(bounds.value),
        lower,
        upper,
        limit.value,
        limit.sense,
        limit.policy_field,
        bounds.prompts,
        int(quantity.sizes.sum()),
        _more_prompts(bounds, quantity, limit) if outcome == "inconclusive" else None,
    )


def _decide(lower: float, upper: float, limit: Limit) -> Outcome:
    if limit.sense == "at most":
        if upper <= limit.value:
            return "pass"
        return "fail" if lower > limit.value else "inconclusive"
    if lower >= limit.value:
        return "pass"
    return "fail" if upper < limit.value else "inconclusive"


def _unbounded(quantity: Quantity, limit: Limit) -> Check:
    used = int((quantity.sizes > 0).sum())
    return Check(
        quantity.name,
        "inconclusive",
        quantity.meaning,
        quantity.unit,
        limit=limit.value,
        sense=limit.sense,
        policy_field=limit.policy_field,
        prompts=used,
        positions=int(quantity.sizes.sum()),
        note=f"{used} prompts have positions to compare; {FEWEST_PROMPTS} are needed for a bound",
    )


def _more_prompts(bounds: Estimate, quantity: Quantity, limit: Limit) -> str:
    """Says how many prompts would decide, from the distance on the scale of the mean."""
    target = math.log(limit.value) if quantity.shown_as is ratio_of else limit.value
    needed = bounds.prompts_to_decide(target, limit.failure_confidence)
    if needed is None:
        return "the value is exactly the limit: more prompts would not decide"
    return f"about {needed} prompts like these would decide; there were {bounds.prompts}"


def shown(quantity: Quantity, confidence: float) -> Check:
    """Gives a mean with its bounds and no limit."""
    bounds = estimate(
        quantity.sums,
        quantity.sizes,
        quantity.strata,
        lower_confidence=confidence,
        upper_confidence=confidence,
    )
    show = quantity.shown_as
    return Check(
        quantity.name,
        "shown",
        quantity.meaning,
        quantity.unit,
        None if bounds is None else show(bounds.value),
        None if bounds is None else quantity.shown_lower(bounds),
        None if bounds is None else show(bounds.upper),
        prompts=int((quantity.sizes > 0).sum()),
        positions=int(quantity.sizes.sum()),
    )
