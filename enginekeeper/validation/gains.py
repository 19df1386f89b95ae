"""The check `fidelity.gain`: is a tensor louder or quieter than its recipe says?

A mean divergence weighs all directions alike, so a small error of one tensor drowns in what another
kernel rounds. It is not alone in its direction, though: of everything an engine may differ in, that
direction is known beforehand (`enginekeeper.validation.dictionary`).

Rules:

- it needs a fault dictionary (`--locate`) and a runner that gives log-probabilities; without one of
  them it is `not run`, and says so;
- it fails where one gain explains `FAIL_EXPLAINED` of the distance or more, is `LEAST_GAIN` or more
  and is certain, all directions that were looked at counted (Bonferroni over Student's t of the
  prompts' contributions); with `DOUBT_EXPLAINED` it is inconclusive;
- certainty alone decides nothing: another valid rounding is no gain, and yet is certain to lie a
  little along some direction; that it explains little is what tells it from a fault;
- a pass says that nothing was seen: what is small beside the noise of the recipe stays hidden.
"""

from __future__ import annotations

from dataclasses import replace

from enginekeeper.validation.checks import Check, Limit, rounded
from enginekeeper.validation.dictionary import Strongest, in_words, strongest
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.statistics import FEWEST_PROMPTS

NAME = "fidelity.gain"
MEANING = "share of the distance to the recipe twin that the gain of one tensor explains"

FAIL_EXPLAINED, DOUBT_EXPLAINED = 0.2, 0.02
"""Another valid rounding explained 0.057 once, else healthy engines at most 0.014, and drawn signs
0.021; figures: docs/detection.md."""

LEAST_GAIN = 0.0025
"""Above what a scale may change when it is rounded to bfloat16: 2**-9 = 0.00195."""


def gain_check(evidence: Evidence, limit: Limit) -> Check:
    """Judges the gain that explains most; of `limit` only the error of a failure is used.

    The evidence is as it was made, not cut to what the engine scored.
    """
    missing = Check(NAME, "not run", MEANING, "share")
    if evidence.dictionary is None:
        return replace(missing, note="no fault dictionary was made (--locate)")
    if evidence.engine.of_choices:
        return replace(missing, note="the runner gives no log-probabilities")
    if evidence.twin is None:
        return replace(missing, note="no recipe twin was scored")
    found = strongest(evidence.dictionary, evidence.twin, evidence.engine, evidence.scored)
    if found is None or found.prompts < FEWEST_PROMPTS:
        seen = 0 if found is None else found.prompts
        note = f"{seen} prompts differ from the twin; {FEWEST_PROMPTS} are needed"
        return replace(missing, note=note, prompts=seen)
    return _judged(found, limit)


def _judged(found: Strongest, limit: Limit) -> Check:
    best, needed = (
        found.culprit,
        critical(found.prompts, found.directions, limit.failure_confidence),
    )
    counts = best.certainty >= needed and abs(best.gain) >= LEAST_GAIN
    check = Check(
        NAME,
        "pass",
        MEANING,
        "share",
        best.explained,
        limit=FAIL_EXPLAINED,
        prompts=found.prompts,
        positions=found.positions,
        note=f"{in_words([best])}, {best.certainty:.1f} standard errors of {needed:.1f} needed "
        f"for {found.directions} directions",
    )
    if not counts or best.explained < DOUBT_EXPLAINED:
        return check
    if best.explained < FAIL_EXPLAINED:
        return replace(check, outcome="inconclusive")
    where = " or ".join(best.names)
    message = f"the gain of {where} is {best.size} off, by what the engine predicts"
    finding = Finding(NAME, "fail", where, message, rounded(1.0 + best.gain), 1.0, "T1")
    return replace(check, outcome="fail", finding=finding)


def critical(prompts: int, directions: int, confidence: float) -> float:
    """Returns how many standard errors are beyond chance in all directions together."""
    from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time; a plan judges nothing

    share = (1.0 - confidence) / (2.0 * directions)
    return float(stats.t.isf(share, prompts - 1))
