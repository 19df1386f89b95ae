"""The second line of a verdict: does the engine cost more than the policy allows?

Source against engine answers that. Source against recipe twin says how much of it the recipe
costs by itself, and the paired difference of the two says how much the engine adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from enginekeeper.validation.checks import (
    Check,
    Limit,
    Quantity,
    Rule,
    bounded,
    ratio_of,
    rounded,
    shown,
)
from enginekeeper.validation.divergence import Comparison, compare, same_choices
from enginekeeper.validation.evidence import Evidence, Line, line_result
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.greedy import GreedyComparison, compare_greedy
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite

FAILING_CHECKS = 3
"""KL, perplexity and top-1 agreement: they share the error of a failure."""


@dataclass(frozen=True)
class Quality:
    """The line, and whether the engine was shown to be worse than its recipe."""

    line: Line
    worse_than_recipe: bool


def quality(evidence: Evidence, policy: AcceptancePolicy) -> Quality:
    """Judges source against engine by the policy; without a reference nothing can be judged."""
    reference, evidence = _check_reference(evidence, policy), evidence.seen
    source = evidence.source
    if source is None:
        return _undecided("no reference was scored")
    if broken := source.not_finite:
        return _undecided(f"the reference itself is not finite at {broken} positions")
    if _is_contradicted(reference):
        return _without_reference(reference)
    if evidence.engine.of_choices:
        return _of_choices(reference, source, evidence, policy)
    comparison = compare(source, evidence.engine, evidence.tokens, at="source")
    checks = [reference, *_bounded(comparison, policy, evidence.rule)]
    greedy = compare_greedy(source, evidence.engine)
    checks.append(_continued("quality.greedy", "the engine", greedy))
    excess: tuple[Check, ...] = ()
    if evidence.twin is not None:
        recipe = compare(source, evidence.twin, evidence.tokens, at="source")
        excess = _excess(comparison, recipe, policy.confidence)
        alike = compare_greedy(source, evidence.twin)
        checks += [
            *_recipe_cost(recipe, policy.confidence),
            _continued("recipe.greedy", "the recipe twin", alike),
            *excess,
        ]
    result = line_result(tuple(checks))
    window = comparison.worst_window()
    details = {
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
    line = Line("quality", result, _statement(tuple(checks)), tuple(checks), details)
    worse = any((check.lower or 0.0) > policy.max_fidelity_kl for check in excess)
    return Quality(line, worse)


def _of_choices(
    reference: Check, source: Scores, evidence: Evidence, policy: AcceptancePolicy
) -> Quality:
    """Judges how often the source's preferred token was chosen: all that the runner says."""
    engine = evidence.engine
    quantity = Quantity(
        "quality.top1_agreement",
        "share of positions with the source's preferred token",
        "",
        np.add.reduceat(same_choices(source, engine).astype(np.float64), engine.offsets[:-1]),
        np.diff(engine.offsets).astype(np.float64),
        evidence.tokens.strata,
    )
    limit = Limit(
        policy.min_top1_agreement,
        "at least",
        policy.confidence,
        FAILING_CHECKS,
        "min_top1_agreement",
        evidence.rule,
    )
    note = "the runner says nothing of the tokens that were not chosen"
    kl = Check("quality.kl", "inconclusive", "KL(source ‖ engine)", "nats", note=note)
    greedy = _continued("quality.greedy", "the engine", compare_greedy(source, engine))
    checks = (reference, kl, _with_finding(bounded(quantity, limit)), greedy)
    line = Line("quality", line_result(checks), _statement(checks), checks, {})
    return Quality(line, worse_than_recipe=False)


def _undecided(reason: str) -> Quality:
    check = Check("quality.kl", "inconclusive", "KL(source ‖ engine)", "nats", note=reason)
    line = Line("quality", "inconclusive", f"may or may not cost too much: {reason}", (check,), {})
    return Quality(line, worse_than_recipe=False)


def _is_contradicted(reference: Check) -> bool:
    """Says whether a second runtime found the reference wrong: then it stops no engine."""
    return reference.finding is not None


def _without_reference(reference: Check) -> Quality:
    """Leaves the line undecided and names the reference: what is measured by it says nothing."""
    kl = Check(
        "quality.kl", "inconclusive", "KL(source ‖ engine)", "nats", note="the reference is wrong"
    )
    said = f"may or may not cost too much: {reference.note}; the reference is in doubt"
    line = Line("quality", "inconclusive", said, (reference, kl), {})
    return Quality(line, worse_than_recipe=False)


def costs_so_far(evidence: Evidence, policy: AcceptancePolicy) -> tuple[Check, ...]:
    """Judges what `quality` limits, and nothing else; what may stop a run on its way."""
    seen = evidence.seen
    contradicted = _is_contradicted(_check_reference(evidence, policy))
    if seen.source is None or seen.source.not_finite or contradicted:
        return (Check("quality.kl", "inconclusive", "KL(source ‖ engine)", "nats"),)
    comparison = compare(seen.source, seen.engine, seen.tokens, at="source")
    return _bounded(comparison, policy, evidence.rule)


def _bounded(comparison: Comparison, policy: AcceptancePolicy, rule: Rule) -> tuple[Check, ...]:
    return tuple(
        _with_finding(bounded(quantity, replace(limit, rule=rule)))
        for quantity, limit in _limits(comparison, policy)
    )


def _limits(comparison: Comparison, policy: AcceptancePolicy) -> list[tuple[Quantity, Limit]]:
    sizes, strata, confidence = comparison.sizes, comparison.tokens.strata, policy.confidence
    return [
        (
            Quantity(
                "quality.kl",
                "mean KL(source ‖ engine)",
                "nats per position",
                comparison.per_prompt(comparison.kl),
                sizes,
                strata,
                least=0.0,
            ),
            Limit(policy.max_quality_kl, "at most", confidence, FAILING_CHECKS, "max_quality_kl"),
        ),
        (
            Quantity(
                "quality.perplexity_ratio",
                "perplexity of the engine over that of the source",
                "",
                comparison.per_prompt(comparison.loss),
                sizes,
                strata,
                ratio_of,
            ),
            Limit(
                policy.max_perplexity_ratio,
                "at most",
                confidence,
                FAILING_CHECKS,
                "max_perplexity_ratio",
            ),
        ),
        (
            Quantity(
                "quality.top1_agreement",
                "share of positions with the source's preferred token",
                "",
                comparison.per_prompt(comparison.agree),
                sizes,
                strata,
            ),
            Limit(
                policy.min_top1_agreement,
                "at least",
                confidence,
                FAILING_CHECKS,
                "min_top1_agreement",
            ),
        ),
    ]


def _with_finding(check: Check) -> Check:
    if check.outcome != "fail":
        return check
    finding = Finding(
        check.name,
        "fail",
        f"acceptance.{check.policy_field}",
        f"{check.meaning} is {check.value:.3g}, {check.sense} {check.limit:g} is allowed",
        actual=rounded(check.value),
        expected=f"{check.sense} {check.limit:g}",
    )
    return replace(check, finding=finding)


def _recipe_cost(recipe: Comparison, confidence: float) -> tuple[Check, ...]:
    return (
        shown(
            Quantity(
                "recipe.kl",
                "mean KL(source ‖ recipe twin)",
                "nats per position",
                recipe.per_prompt(recipe.kl),
                recipe.sizes,
                recipe.tokens.strata,
                least=0.0,
            ),
            confidence,
        ),
        shown(
            Quantity(
                "recipe.perplexity_ratio",
                "perplexity of the recipe twin over that of the source",
                "",
                recipe.per_prompt(recipe.loss),
                recipe.sizes,
                recipe.tokens.strata,
                ratio_of,
            ),
            confidence,
        ),
    )


def _continued(name: str, who: str, greedy: GreedyComparison) -> Check:
    """Shows how many prompts are continued as the source continues them, and where they part.

    Shown, not judged: one near tie parts two continuations for good, whatever the recipe.
    """
    parted = sorted(step for step in greedy.first_difference if step is not None)
    note = f"{len(parted)} of {len(greedy.steps)} continuations part from the source's"
    if parted:
        note += f"; half of these by step {parted[(len(parted) - 1) // 2]}"
    return Check(
        name,
        "shown",
        f"share of prompts that {who} continues as the source does",
        "",
        greedy.agreement,
        prompts=len(greedy.steps),
        positions=sum(greedy.steps),
        note=note,
    )


def _excess(engine: Comparison, recipe: Comparison, confidence: float) -> tuple[Check, ...]:
    """Pairs both comparisons prompt by prompt: what the engine adds to the recipe's cost."""
    quantities = (
        ("excess.kl", "KL(source ‖ engine) - KL(source ‖ recipe twin)", engine.kl - recipe.kl),
        ("excess.loss", "loss of the engine - loss of the recipe twin", engine.loss - recipe.loss),
    )
    return tuple(
        shown(
            Quantity(
                name,
                meaning,
                "nats per position",
                engine.per_prompt(gap),
                engine.sizes,
                engine.tokens.strata,
            ),
            confidence,
        )
        for name, meaning, gap in quantities
    )


def _check_reference(evidence: Evidence, policy: AcceptancePolicy) -> Check:
    """Compares the reference with the same model in a second runtime: a wrong one doubts all."""
    name, meaning = "reference.kl", "KL(source under vLLM ‖ source in a second runtime)"
    if evidence.source is None or evidence.second_source is None:
        return Check(name, "not run", meaning, note="the source was scored in one runtime only")
    second = _references_apart(evidence.tokens, evidence.source, evidence.second_source)
    check = bounded(
        Quantity(
            name,
            meaning,
            "nats per position",
            second.per_prompt(second.kl),
            second.sizes,
            evidence.tokens.strata,
            least=0.0,
        ),
        Limit(policy.max_fidelity_kl, "at most", policy.confidence, 1, "max_fidelity_kl"),
    )
    if check.outcome != "fail":
        return check
    message = "the reference and a second runtime disagree on the unquantized model"
    return replace(
        check,
        outcome="inconclusive",
        note=message,
        finding=Finding(
            name,
            "inconclusive",
            "reference",
            message,
            actual=rounded(check.value),
            expected=f"at most {check.limit:g}",
            taxonomy="T24",
        ),
    )


@lru_cache(maxsize=1)  # asked after every prompt of the engine
def _references_apart(tokens: TokenizedSuite, source: Scores, second: Scores) -> Comparison:
    return compare(source, second, tokens, at="source")


def _statement(checks: tuple[Check, ...]) -> str:
    failed = [check for check in checks if check.outcome == "fail"]
    if failed:
        return "breaks policy " + ", ".join(
            f"{check.policy_field}: {check.value:.3g} {'>' if check.sense == 'at most' else '<'}"
            f" {check.limit:g}"
            for check in failed
        )
    doubtful = [check for check in checks if check.outcome == "inconclusive"]
    if doubtful:
        return "may or may not cost too much: " + ", ".join(
            f"{check.name} ({check.note})" for check in doubtful
        )
    ratio = next(check for check in checks if check.name == "quality.perplexity_ratio")
    return f"costs what the policy allows (perplexity x {ratio.value:.3f} of x {ratio.limit:.2f})"
