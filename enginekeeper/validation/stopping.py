"""When scoring may stop: the verdict's own checks, asked after every prompt.

Rules:

- a row that is not finite decides at once: nothing that follows can excuse it;
- inside a round a check that fails at a bound that holds at every moment ends the run;
- between two rounds, when decode was compared, too, the run also ends with a pass, if both lines
  of the verdict pass and `FEWEST_TO_PASS` prompts were scored. So a suite of no more prompts is
  scored whole, and passes by the bounds for whole suites with all of the error: an early end never
  makes a pass cheaper than `smoke` makes it;
- half of each error is for decisions on the way, half for the decision at the end.

Example:
    stop = stop_here(evidence_so_far, policy, rounds)
    if stop is not None:
        ...  # ask the step to end
"""

from __future__ import annotations

from dataclasses import replace

from enginekeeper.validation.checks import Rule
from enginekeeper.validation.evidence import Evidence, Stop
from enginekeeper.validation.fidelity import divergence_so_far, fidelity
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.quality import costs_so_far, quality
from enginekeeper.validation.rounds import Rounds, pending_after

FEWEST_TO_PASS = 48
"""Twice as many as `smoke` has: a fault in one prompt of ten escapes all of them in 0.6 %."""

SHARE = 0.5
"""Of each error, what decisions on the way may spend."""

EFFECT = 0.25
"""The smallest effect that matters, as a share of the limit.

With the floor at half of it (`floor.FLOOR_FACTOR`): what must pass is 0.75 of the limit, what must
fail 1.25. Figures: benchmarks/README.md.
"""


def rule_on_the_way(rounds: Rounds, scored: int) -> Rule:
    """Returns the bounds for a decision after that many prompts."""
    return Rule(
        anytime=True,
        pending=pending_after(rounds, scored),
        pass_share=SHARE,
        fail_share=SHARE,
    )


def rule_at_the_end(rounds: Rounds) -> Rule:
    """Returns the bounds for the whole suite, after nothing was decided on the way."""
    could_pass = sum(map(len, rounds)) > FEWEST_TO_PASS
    return Rule(pass_share=1.0 - SHARE if could_pass else 1.0, fail_share=1.0 - SHARE)


def stop_here(evidence: Evidence, policy: AcceptancePolicy, rounds: Rounds) -> Stop | None:
    """Decides after the prompts scored so far; None: go on."""
    scored = evidence.engine.prompts
    if not evidence.engine.finite.all():
        return Stop("fail", ("fidelity.finite",), scored)
    if scored == sum(map(len, rounds)):
        return None
    rule = rule_on_the_way(rounds, scored)
    evidence = replace(evidence, rule=rule)
    checks = (divergence_so_far(evidence, policy), *costs_so_far(evidence, policy))
    if failed := tuple(check.name for check in checks if check.outcome == "fail"):
        return Stop("fail", failed, scored)
    settled = rule.pending == 0 and scored >= FEWEST_TO_PASS
    if settled and all(check.outcome == "pass" for check in checks):
        return _pass(evidence, policy)
    return None


def _pass(evidence: Evidence, policy: AcceptancePolicy) -> Stop | None:
    """Asks the lines of the verdict, decode included, which cost more to ask."""
    lines = fidelity(evidence, policy), quality(evidence, policy).line
    if any(line.result != "pass" for line in lines):
        return None
    names = (check.name for line in lines for check in line.checks if check.outcome == "pass")
    return Stop("pass", tuple(names), evidence.engine.prompts)
