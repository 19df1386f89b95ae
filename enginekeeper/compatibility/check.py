"""Applies rules to a variant: every one that the facts at hand suffice for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginekeeper.compatibility.build_rules import BUILD_RULES
from enginekeeper.compatibility.capacity import CAPACITY_RULES
from enginekeeper.compatibility.formats import FORMAT_RULES
from enginekeeper.compatibility.platform import (
    ARCHITECTURE,
    PLATFORM_RULES,
    unknown_architecture,
)
from enginekeeper.compatibility.pytorch_rules import PYTORCH_RULES
from enginekeeper.compatibility.rules import AnyRule, Finding, RuleHit, Severity
from enginekeeper.compatibility.structure import STRUCTURE_RULES
from enginekeeper.specs.profiles import BuilderKind

if TYPE_CHECKING:
    from enginekeeper.compatibility.facts import TargetFacts
    from enginekeeper.specs.variants import Variant

RULES: tuple[AnyRule, ...] = (
    *PLATFORM_RULES,
    *BUILD_RULES,
    *PYTORCH_RULES,
    *FORMAT_RULES,
    *STRUCTURE_RULES,
    *CAPACITY_RULES,
)
"""All rules, in the order in which they are reported."""


def check(variant: Variant, facts: TargetFacts) -> tuple[RuleHit, ...]:
    """Returns every rule that fires, refusals first; empty if nothing speaks against a build.

    Without the model's facts the rules that need them are left out; `unchecked` names them.
    """
    rules = [rule for rule in RULES if isinstance(facts, rule.needs)]
    hits = [hit for rule in rules if (hit := _applied(rule, variant, facts)) is not None]
    return tuple(sorted(hits, key=lambda hit: list(Severity).index(hit.severity)))


def check_architecture(facts: TargetFacts, name: str) -> RuleHit | None:
    """Asks the one rule that needs a model's architecture and nothing else of it.

    For models whose config says less than the other rules need.
    """
    rule = next(one for one in PLATFORM_RULES if one.identifier == ARCHITECTURE)
    finding = unknown_architecture(name, facts.toolchain)
    return None if finding is None else _hit(rule, finding, facts)


def unchecked(facts: TargetFacts) -> tuple[str, ...]:
    """Returns the identifiers of the rules that need more than these facts."""
    return tuple(rule.identifier for rule in RULES if not isinstance(facts, rule.needs))


def _applied(rule: AnyRule, variant: Variant, facts: TargetFacts) -> RuleHit | None:
    finding = rule.predicate(variant, facts)
    return None if finding is None else _hit(rule, finding, facts)


def _hit(rule: AnyRule, finding: Finding, facts: TargetFacts) -> RuleHit:
    doubt = _doubt(rule, facts)
    refused = rule.severity is Severity.REFUSE
    return RuleHit(
        rule=rule.identifier,
        severity=Severity.WARN if refused and doubt else rule.severity,
        statement=rule.statement,
        source="; ".join(filter(None, (rule.source, doubt))),
        actual=finding.actual,
        expected=finding.expected,
        remedy=finding.remedy,
    )


def _doubt(rule: AnyRule, facts: TargetFacts) -> str | None:
    """Says that nobody has verified the fact that a rule goes by; None where somebody has."""
    release = facts.toolchain.release
    by_pytorch = facts.toolchain.builder is BuilderKind.TRTLLM_PYTORCH
    if rule.fact == "architectures" and by_pytorch:
        return "the PyTorch backend's list is that of one later commit, so no refusal"
    if rule.fact is None or release is None or release.every_fact()[rule.fact].verified:
        return None
    return f"{rule.fact.replace('_', ' ')} of {release.name}: not verified, so no refusal"
