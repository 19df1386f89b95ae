"""The first line of a verdict: is the engine what its recipe says?

The recipe twin is the yardstick: the same weights, quantized and dequantized by the recipe in our
own code and run in float32. A healthy engine differs from it by arithmetic only, whatever the
recipe costs, so a fault shows against a floor that does not depend on how lossy the recipe is.

A recipe that rounds activations has a floor of its own; see `enginekeeper.validation.floor`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from enginekeeper.validation.asked import asked_checks
from enginekeeper.validation.checks import (
    Check,
    Limit,
    Quantity,
    Rule,
    bounded,
    rounded,
    shown,
)
from enginekeeper.validation.divergence import Comparison, compare, same_choices
from enginekeeper.validation.endings import BothEndings
from enginekeeper.validation.evidence import Evidence, Line, line_result
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.floor import Floor, measured_floor
from enginekeeper.validation.gains import NAME as GAIN
from enginekeeper.validation.gains import gain_check
from enginekeeper.validation.greedy import (
    GreedyComparison,
    compare_greedy,
    decode_against_prefill,
    expected_flips,
)
from enginekeeper.validation.places import PLACES, TAIL, places_check, tail_check
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.probes import TEXTS, text_checks
from enginekeeper.validation.profiles import (
    by_position,
    by_token_class,
    detectable,
    power,
    worst_windows,
)
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.statistics import FEWEST_PROMPTS, hazard_exceeds
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.triangle import blamed, sides

CHOICES_ONLY = "the runner names the tokens that were chosen, and says nothing of any other"

PER_UNIT = ("nats per position", "nats per step")
"""Units of what the floor is measured in."""

LOCAL = (PLACES, TAIL)

FAILING_CHECKS = 5
"""kl, places, decode gap, decode flips, decode against prefill: they share the error of a failure.

All places together have the share of one."""


def fidelity(evidence: Evidence, policy: AcceptancePolicy) -> Line:
    """Judges the engine against the recipe twin; without a twin only what needs none is judged."""
    floor = measured_floor(evidence)
    limit = _limit(policy, floor, evidence)
    gain, evidence = gain_check(evidence, limit), evidence.seen
    if evidence.engine.of_choices:
        return _of_choices(evidence, limit, gain)
    finite, consistent = _finite(evidence.engine, evidence.tokens), _self_check(evidence, limit)
    whole = Rule(fail_share=evidence.rule.fail_share)  # probes are never asked on the way
    asked = replace(limit, rule=whole)
    probes = asked_checks(evidence, asked)
    by_floor = floor is not None and floor.decides(policy)
    if by_floor and consistent.outcome == "inconclusive":
        note = "hidden by the recipe's own floor; the decode gap to the twin decides instead"
        consistent = replace(consistent, outcome="shown", note=note)
    twin = evidence.twin
    if twin is None:
        return _without_twin((finite, consistent, gain, *probes), "no recipe twin was scored")
    if broken := twin.not_finite:
        reason = f"the recipe twin itself is not finite at {broken} positions"
        return _without_twin((finite, consistent, gain, *probes), reason)
    comparison = compare(twin, evidence.engine, evidence.tokens, at="twin")
    greedy = compare_greedy(twin, evidence.engine)
    divergence = _divergence(comparison, _pairing(evidence, floor, policy), limit)
    gap = _silent(evidence.engine, "fidelity.decode_gap") or _decode_gap(
        greedy, evidence.tokens.strata, limit
    )
    divergence = _with_power(divergence, comparison, limit, by_floor=by_floor)
    if floor is not None and floor.hides(policy):
        divergence, gap, consistent = (
            _below_the_floor(check, floor) for check in (divergence, gap, consistent)
        )
        probes = tuple(_below_the_floor(check, floor) for check in probes)
    if divergence.finding is not None and gap.finding is not None:
        # What is wrong in prefill is expected in decode: no evidence of a decode fault of its own.
        gap = replace(gap, finding=replace(gap.finding, taxonomy=None))
    flips = _decode_flips(expected_flips(comparison), greedy, limit)
    if all(check.outcome == "not run" for check in (consistent, gap, flips)):
        gap = replace(gap, outcome="inconclusive", note=f"decode was not compared: {gap.note}")
    places, tail = _local(comparison, evidence, policy, limit)
    decided = (divergence, finite, places, tail, consistent, gap, flips, gain, *probes)
    decided = (*decided, *sides(evidence, policy), *_supporting(evidence, policy))
    checks = decided if floor is None else (*decided, floor.check(policy.confidence))
    details = {
        **_details(comparison, greedy),
        "positions": by_position(comparison, _noise(evidence)),
        "power": power(comparison, limit),
        "token_classes": by_token_class(comparison, evidence.pieces),
        "windows": worst_windows(
            comparison, {"twin": twin, "engine": evidence.engine}, evidence.pieces
        ),
    }
    return Line("fidelity", line_result(checks), _statement(checks), checks, details)


def local_checks(evidence: Evidence, policy: AcceptancePolicy) -> tuple[Check, ...]:
    """Judges the parts of what was scored, and its worst position, as `fidelity` does."""
    twin, seen = evidence.seen.twin, evidence.seen
    if twin is None or twin.not_finite:
        return ()
    comparison = compare(twin, seen.engine, seen.tokens, at="twin")
    return _local(comparison, seen, policy, fidelity_limit(evidence, policy))


def _local(
    comparison: Comparison, evidence: Evidence, policy: AcceptancePolicy, limit: Limit
) -> tuple[Check, Check]:
    """Judges the parts of what was scored, each by the policy's own limit or the floor there."""
    own, noise = replace(limit, value=policy.max_fidelity_kl), _noise(evidence)
    pieces = evidence.pieces
    return (
        places_check(comparison, noise, pieces, own),
        tail_check(comparison, noise, pieces, own),
    )


def _of_choices(evidence: Evidence, limit: Limit, gain: Check) -> Line:
    """Judges what an engine chose, where its runner says no more: it can fail, and never pass."""
    engine, twin, said = evidence.engine, evidence.twin, CHOICES_ONLY
    kl = Check("fidelity.kl", "inconclusive", "KL(recipe twin ‖ engine)", "nats", note=said)
    finite = Check("fidelity.finite", "not run", "rows of logits that are finite", note=said)
    checks: list[Check] = [kl, finite, gain]
    checks.append(_self_check(evidence, limit))
    if twin is not None and not twin.not_finite:
        greedy = compare_greedy(twin, engine)
        silent = _silent(engine, "fidelity.decode_gap")
        checks.append(silent or _decode_gap(greedy, evidence.tokens.strata, limit))
        agree = same_choices(twin, engine)
        expected = (int((~agree).sum()), len(agree))
        checks.append(_decode_flips(expected, greedy, limit))
    checks += text_checks(evidence.texts)
    result = line_result(tuple(checks))
    return Line("fidelity", result, _statement(tuple(checks)), tuple(checks), {})


def _supporting(evidence: Evidence, policy: AcceptancePolicy) -> tuple[Check, ...]:
    """Shows how far the validation twin is from the recipe, where one was scored."""
    twin, other = evidence.twin, evidence.validation_twin
    if twin is None or other is None:
        return ()
    found = compare(twin, other, evidence.tokens, at="twin")
    quantity = Quantity(
        "fidelity.validation_twin",
        "mean KL(recipe twin ‖ validation twin)",
        "nats per position",
        found.per_prompt(found.kl),
        found.sizes,
        found.tokens.strata,
        least=0.0,
    )
    note = "another plan than the one that is shipped: it supports, and decides nothing"
    if other.not_finite:
        note = f"{other.not_finite} rows are not finite; {note}"
    return (replace(shown(quantity, policy.confidence), note=note),)


def _silent(engine: Scores, name: str) -> Check | None:
    """Returns what becomes of a decode check whose numbers the runner does not give."""
    missing = sorted({"top_logprobs", "greedy_logprobs"} & set(engine.lacks))
    if not missing:
        return None
    note = f"the runner gives no {' and no '.join(missing)}"
    return Check(name, "not run", "log-probabilities of what decode chose", note=note)


def _noise(evidence: Evidence) -> Comparison | None:
    """Returns the floor over the prompts that were scored, to be drawn beside the engine."""
    floor = measured_floor(evidence)
    return None if floor is None else floor.apart


def divergence_so_far(evidence: Evidence, policy: AcceptancePolicy) -> Check:
    """Judges the divergence alone, as `fidelity` does; what may stop a run on its way."""
    floor, twin, seen = measured_floor(evidence), evidence.seen.twin, evidence.seen
    if twin is None or twin.not_finite:
        return Check("fidelity.kl", "inconclusive", "KL(recipe twin ‖ engine)", "nats")
    comparison = compare(twin, seen.engine, seen.tokens, at="twin")
    pairing = _pairing(seen, floor, policy)
    check = _divergence(comparison, pairing, _limit(policy, floor, evidence))
    hidden = floor is not None and floor.hides(policy)
    return _below_the_floor(check, floor) if floor is not None and hidden else check


def _pairing(seen: Evidence, floor: Floor | None, policy: AcceptancePolicy) -> Floor | None:
    """Returns the floor of the same prompts in the same order, to pair them with the engine's.

    Bounds that hold at every moment take no negative numbers: they are not paired.
    """
    paired = floor is not None and floor.decides(policy) and not seen.rule.anytime
    return measured_floor(seen) if paired else None


def failing_checks(evidence: Evidence) -> int:
    """Returns how many checks share the error of a failure: all ladders have the share of one."""
    asked = (evidence.probes, evidence.layers, evidence.linears, evidence.dictionary)
    compared = isinstance(evidence.endings, BothEndings)
    return FAILING_CHECKS + compared + sum(one is not None for one in asked)


def fidelity_limit(evidence: Evidence, policy: AcceptancePolicy) -> Limit:
    """Returns the limit of a divergence, and the levels that all checks of the line share."""
    return _limit(policy, measured_floor(evidence), evidence)


def _limit(policy: AcceptancePolicy, floor: Floor | None, evidence: Evidence) -> Limit:
    allowed = policy.max_fidelity_kl if floor is None else floor.allowed(policy)
    checks, rule = failing_checks(evidence), evidence.rule
    return Limit(allowed, "at most", policy.confidence, checks, "max_fidelity_kl", rule)


def _without_twin(alone: tuple[Check, ...], reason: str) -> Line:
    missing = Check("fidelity.kl", "inconclusive", "KL(recipe twin ‖ engine)", "nats", note=reason)
    checks = (missing, *alone)
    result = line_result(checks)
    statement = (
        _statement(checks)
        if result == "fail"
        else f"may or may not be what its recipe says: {reason}"
    )
    return Line("fidelity", result, statement, checks, {})


def _finite(engine: Scores, tokens: TokenizedSuite) -> Check:
    steps = int((engine.greedy_ids != -1).sum())
    bad = engine.not_finite
    check = Check(
        "fidelity.finite",
        "fail" if bad else "pass",
        "positions and decode steps whose logits are not all finite",
        "positions",
        float(bad),
        limit=0.0,
        prompts=engine.prompts,
        positions=engine.positions + steps,
    )
    if not bad:
        return check
    where = _first_not_finite(engine, tokens)
    finding = Finding(
        check.name,
        "fail",
        where,
        f"{bad} of {check.positions} rows of logits hold NaN or infinity, first at {where}",
        actual=bad,
        expected=0,
        taxonomy="T20",
    )
    return replace(check, finding=finding)


def _first_not_finite(engine: Scores, tokens: TokenizedSuite) -> str:
    """Names the first prompt and position, or decode step, whose logits are not all finite."""
    positions = np.flatnonzero(~engine.finite)
    if len(positions):
        row = int(engine.offsets.searchsorted(positions[0], side="right")) - 1
        return f"{tokens.prompts[row].id}, position {int(positions[0] - engine.offsets[row])}"
    row, step = (int(axis[0]) for axis in np.nonzero(~engine.decode_finite))
    return f"{tokens.prompts[row].id}, decode step {step}"


def _divergence(comparison: Comparison, floor: Floor | None, limit: Limit) -> Check:
    sums = comparison.per_prompt(comparison.kl)
    check = bounded(
        Quantity(
            "fidelity.kl",
            "mean KL(recipe twin ‖ engine)",
            "nats per position",
            sums if floor is None else floor.paired(sums),
            comparison.sizes,
            comparison.tokens.strata,
            least=0.0,
        ),
        limit,
    )
    if check.outcome != "fail":
        return check
    window = comparison.worst_window()
    where = f"everywhere; worst in {window.prompt}, positions {window.start} to {window.stop - 1}"
    message = (
        f"the engine's predictions are {check.value:.2g} nats per position away from the recipe's"
    )
    return replace(check, finding=_finding(check, where, message, None))


def _below_the_floor(check: Check, floor: Floor) -> Check:
    """Withdraws a failure that the recipe's own floor, cut off by the ceiling, may explain."""
    if check.outcome != "fail" or check.unit not in PER_UNIT or _is_not_finite(check):
        return check
    if (check.lower or 0.0) > floor.raised:
        return check
    note = f"the recipe's own floor alone allows {floor.raised:.3g}: no fault, and no proof of none"
    return replace(check, outcome="inconclusive", finding=None, note=note)


def _is_not_finite(check: Check) -> bool:
    return check.finding is not None and check.finding.taxonomy == "T20"


def _with_power(check: Check, comparison: Comparison, limit: Limit, *, by_floor: bool) -> Check:
    """Says beside a pass what would have failed, and whether the floor is why no less would."""
    if check.outcome != "pass" or limit.rule.anytime:
        return check
    least = detectable(comparison, limit)
    seen = (
        "nothing would have failed for certain with so few prompts"
        if least is None
        else f"{least:.2g} nats per position would have failed in four runs of five"
    )
    if by_floor:
        seen = f"the recipe's own floor sets the limit: {seen}, less may hide in it"
    return replace(check, note=seen)


def _self_check(evidence: Evidence, limit: Limit) -> Check:
    """Compares the engine's decode path with its own prefill, where its text allows it."""
    if silent := _silent(evidence.engine, "fidelity.decode_against_prefill"):
        return silent
    sums, sizes = decode_against_prefill(evidence.engine, evidence.tokens, evidence.greedy_prefix)
    quantity = Quantity(
        "fidelity.decode_against_prefill",
        "half mean squared gap between the engine's decode and its own prefill",
        "nats per step",
        sums,
        sizes,
        evidence.tokens.strata,
        least=0.0,
    )
    return _decode_check(quantity, limit, "the engine's decode path contradicts its own prefill")


def _decode_gap(greedy: GreedyComparison, strata: NDArray[np.int64], limit: Limit) -> Check:
    quantity = Quantity(
        "fidelity.decode_gap",
        "half mean squared gap to the recipe twin at agreed decode steps",
        "nats per step",
        greedy.gap,
        greedy.gap_steps,
        strata,
        least=0.0,
    )
    return _decode_check(quantity, limit, "the engine's decode path is away from the recipe's")


def _decode_check(quantity: Quantity, limit: Limit, message: str) -> Check:
    used = int((quantity.sizes > 0).sum())
    if used < FEWEST_PROMPTS:
        return Check(
            quantity.name,
            "not run",
            quantity.meaning,
            quantity.unit,
            prompts=used,
            positions=int(quantity.sizes.sum()),
            note=f"only {used} prompts have decode steps to compare; {FEWEST_PROMPTS} are needed",
        )
    check = bounded(quantity, limit)
    if check.outcome != "fail":
        return check
    return replace(check, finding=_finding(check, "decode", message, "T10"))


def _decode_flips(expected: tuple[int, int], greedy: GreedyComparison, limit: Limit) -> Check:
    """Asks whether continuations part more often than the same arms disagree in prefill."""
    background, positions = expected
    events, exposures = greedy.decode_flips, greedy.decode_exposures
    name, meaning = "fidelity.decode_flips", "first differences from the twin per decode step"
    if exposures == 0 or positions == 0:
        return Check(name, "not run", meaning, note="there are no decode steps to compare")
    p_value = hazard_exceeds(events, exposures, background, positions)
    failed = p_value < 1.0 - limit.failure_confidence
    check = Check(
        name,
        "fail" if failed else "pass",
        meaning,
        "per step",
        events / exposures,
        limit=background / positions,
        prompts=len(greedy.steps),
        positions=exposures,
        note=f"{events} of {exposures} decode steps against {background} of {positions} in prefill;"
        f" Fisher's exact test, one-sided p = {p_value:.2g}",
    )
    if not failed:
        return check
    message = "the engine parts from its recipe in decode more often than in prefill"
    return replace(check, finding=_finding(check, "decode", message, "T10"))


def _finding(check: Check, where: str, message: str, taxonomy: str | None) -> Finding:
    limit = "0" if check.limit is None else f"{check.limit:.3g}"
    return Finding(
        check.name,
        "fail",
        where,
        message,
        actual=rounded(check.value),
        expected=f"{check.sense} {limit} {check.unit}".strip(),
        taxonomy=taxonomy,
    )


def _statement(checks: tuple[Check, ...]) -> str:
    result = line_result(checks)
    numbers = {check.name: check for check in checks}
    kl = numbers["fidelity.kl"]
    size = "" if kl.value is None else f" (KL {kl.value:.2g} nats, limit {kl.limit:.2g})"
    if result == "pass":
        return f"is what its recipe says{size}"
    if result == "inconclusive":
        doubt = [check.note for check in checks if check.outcome == "inconclusive" and check.note]
        return f"may or may not be what its recipe says{size}: {'; '.join(doubt)}"
    if numbers["fidelity.finite"].outcome == "fail":
        return "produces logits that are not finite"
    if kl.outcome == "fail":
        side = blamed(checks, kl)
        return f"is not what its recipe says{size}{f': {side}' if side else ''}"
    failed = [check.name for check in checks if check.outcome == "fail"]
    local = next((one.finding for one in checks if one.name in failed and one.name in LOCAL), None)
    if local is not None:
        return f"is not what its recipe says, there: {local.message}"
    said = f"does not decode what its recipe says{size}"
    if failed == [GAIN]:
        said = f"has a tensor that is louder or quieter than its recipe says{size}"
    elif set(failed) <= set(TEXTS):
        said = f"is shipped with texts that are not its model's ({', '.join(failed)})"
    elif all(name.startswith("probe.") for name in failed):
        said = f"says something else when it is asked otherwise ({', '.join(failed)})"
    return said


def _details(comparison: Comparison, greedy: GreedyComparison) -> dict[str, object]:
    window = comparison.worst_window()
    return {
        "quantiles": {
            name: rounded(comparison.quantile(fraction))
            for name, fraction in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
        },
        "top1_agreement": rounded(comparison.mean(comparison.agree)),
        "strata": {name: rounded(kl) for name, kl in comparison.by_stratum().items()},
        "worst_window": {
            "prompt": window.prompt,
            "stratum": window.stratum,
            "start": window.start,
            "stop": window.stop,
            "kl": rounded(window.kl),
        },
        "greedy": {
            "identical": rounded(greedy.agreement),
            "first_difference": list(greedy.first_difference),
        },
        "excluded_positions": comparison.excluded,
    }
