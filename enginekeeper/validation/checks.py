"""One measured number against one limit: the smallest part of a verdict.

A check passes when its confidence bound is inside the limit, fails when the bound on the other side
is outside it, and is inconclusive between. To pass a line every check must pass, so each pass is
held to the policy's confidence as it stands (an intersection-union test); to fail a line one check
suffices, so failures share the error between the checks of the line (Bonferroni).

Scoring may stop before the end of a suite. Then the bounds are those that hold at every moment
(`enginekeeper.validation.sequential`), and the chance to stop is paid for: what may be decided on
the way has half of each error, what is decided at the end the other half.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enginekeeper.validation import sequential
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.statistics import FEWEST_PROMPTS, METHOD, Estimate, estimate

Outcome = Literal["pass", "fail", "inconclusive", "not run", "shown"]
"""`not run` says why in its note; `shown` has no limit and decides nothing."""

Sense = Literal["at most", "at least"]

Doubles = NDArray[np.float64]


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


def gravity(check: Check) -> int:
    """Orders outcomes: a failure, then doubt, then everything else."""
    return {"fail": 2, "inconclusive": 1}.get(check.outcome, 0)


def nearer_to_failing(check: Check) -> tuple[bool, float]:
    """Orders parts of one check that is "at most": failures first, then by shares of the limit."""
    return check.outcome == "fail", (check.value or 0.0) / (check.limit or 1.0)


def rounded(value: float | None) -> float | None:
    """Rounds to six significant digits, the same on every machine; None stays None."""
    return None if value is None else float(f"{value:.6g}")


@dataclass(frozen=True)
class Rule:
    """Which bounds are used, and which share of each error they may spend."""

    anytime: bool = False
    """Whether the prompts were stopped at because of what they showed."""
    pending: int = 0
    """How many prompts of the round that was begun last were not scored."""
    pass_share: float = 1.0
    fail_share: float = 1.0

    @property
    def method(self) -> str:
        """Names the bounds, for whoever reads a verdict."""
        return sequential.METHOD if self.anytime else METHOD


WHOLE = Rule()
"""Every prompt was scored, and nothing was looked at before."""


@dataclass(frozen=True)
class Limit:
    """What a mean is held against, and at which levels."""

    value: float
    sense: Sense
    confidence: float
    """Of a pass, before a rule takes its share of the error."""
    checks: int
    """How many checks of the line could fail it: they share the error of a failure."""
    policy_field: str | None = None
    rule: Rule = WHOLE

    @property
    def pass_confidence(self) -> float:
        """The level of the bound that must be inside the limit for a pass."""
        return 1.0 - (1.0 - self.confidence) * self.rule.pass_share

    @property
    def failure_confidence(self) -> float:
        """The level of the bound that must be outside the limit for a failure."""
        return 1.0 - (1.0 - self.confidence) * self.rule.fail_share / self.checks


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
    if limit.rule.anytime:
        return _bounded_anytime(quantity, limit)
    pass_level, fail_level = limit.pass_confidence, limit.failure_confidence
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
    note = _more_prompts(bounds, quantity, limit) if outcome == "inconclusive" else None
    return _judged(quantity, limit, (show(bounds.value), lower, upper), outcome, note)


def _judged(
    quantity: Quantity,
    limit: Limit,
    numbers: tuple[float, float | None, float | None],
    outcome: Outcome,
    note: str | None,
) -> Check:
    value, lower, upper = numbers
    return Check(
        quantity.name,
        outcome,
        quantity.meaning,
        quantity.unit,
        value,
        lower,
        upper,
        limit.value,
        limit.sense,
        limit.policy_field,
        int((quantity.sizes > 0).sum()),
        int(quantity.sizes.sum()),
        note,
    )


def _bounded_anytime(quantity: Quantity, limit: Limit) -> Check:
    """Holds the mean over prompts of a prompt's mean against a limit, wherever scoring stopped."""
    used = quantity.sizes > 0
    x = quantity.sums[used] / quantity.sizes[used]
    if len(x) == 0:
        return _unbounded(quantity, limit)
    target = _on_the_scale_of_the_mean(quantity, limit)
    if limit.sense == "at most":
        lower, upper = _anytime(x, target, limit, least=quantity.least)
    else:  # a share: what is missing from it is bounded instead
        missing_lower, missing_upper = _anytime(1.0 - x, 1.0 - target, limit, least=0.0)
        lower, upper = 1.0 - missing_upper, 1.0 - missing_lower
    show = quantity.shown_as
    bounds = (show(lower) if lower > -math.inf else None, show(upper) if upper < math.inf else None)
    outcome = _decide(
        -math.inf if bounds[0] is None else bounds[0],
        math.inf if bounds[1] is None else bounds[1],
        limit,
    )
    note = _more_tokens(x, target, quantity, limit) if outcome == "inconclusive" else None
    return _judged(quantity, limit, (show(float(x.mean())), *bounds), outcome, note)


def _anytime(x: Doubles, target: float, limit: Limit, *, least: float) -> tuple[float, float]:
    """Bounds a mean at every moment; below only what cannot be negative."""
    rule = limit.rule
    lower = -math.inf
    if least >= 0.0:
        alpha = 1.0 - limit.failure_confidence
        lower = sequential.lower_bound(x, alpha=alpha, pending=rule.pending)
    ceiling = sequential.CLIP * target
    beta = 1.0 - limit.pass_confidence
    return lower, sequential.upper_bound(x, ceiling=ceiling, alpha=beta, pending=rule.pending)


def _on_the_scale_of_the_mean(quantity: Quantity, limit: Limit) -> float:
    return math.log(limit.value) if quantity.shown_as is ratio_of else limit.value


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
    target = _on_the_scale_of_the_mean(quantity, limit)
    needed = bounds.prompts_to_decide(target, limit.failure_confidence)
    if needed is None:
        return "the value is exactly the limit: more prompts would not decide"
    tokens = round((needed - bounds.prompts) * float(quantity.sizes.sum()) / bounds.prompts)
    return (
        f"about {needed} prompts like these would decide; there were {bounds.prompts}"
        f" (some {tokens} tokens more)"
    )


def _more_tokens(x: Doubles, target: float, quantity: Quantity, limit: Limit) -> str:
    """Says how many tokens more would decide, from how fast the better side won so far."""
    at_most = limit.sense == "at most"
    limit_of_mean = target if at_most else 1.0 - target
    more = sequential.prompts_to_decide(
        x if at_most else 1.0 - x,
        limit=limit_of_mean,
        alpha=1.0 - limit.failure_confidence,
        beta=1.0 - limit.pass_confidence,
        ceiling=sequential.CLIP * limit_of_mean,
    )
    if more is None:
        return f"too near the limit to be decided by prompts like these; there were {len(x)}"
    tokens = round(more * float(quantity.sizes.sum()) / len(x))
    return f"about {more} prompts more (some {tokens} tokens) would decide; there were {len(x)}"


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
