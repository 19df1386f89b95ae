"""Applies every rule to a variant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginekeeper.compatibility.capacity import CAPACITY_RULES
from enginekeeper.compatibility.formats import FORMAT_RULES
from enginekeeper.compatibility.platform import PLATFORM_RULES
from enginekeeper.compatibility.rules import Rule, RuleHit, Severity
from enginekeeper.compatibility.structure import STRUCTURE_RULES
from enginekeeper.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enginekeeper.compatibility.facts import Facts
    from enginekeeper.specs.variants import Variant

RULES: tuple[Rule, ...] = (*PLATFORM_RULES, *FORMAT_RULES, *STRUCTURE_RULES, *CAPACITY_RULES)
"""All rules, in the order in which they are reported."""


def check(variant: Variant, facts: Facts) -> tuple[RuleHit, ...]:
    """Returns every rule that fires, refusals first; empty if nothing speaks against a build."""
    hits = [hit for rule in RULES if (hit := _applied(rule, variant, facts)) is not None]
    return tuple(sorted(hits, key=lambda hit: list(Severity).index(hit.severity)))


def refuse_if_hopeless(variant: Variant, hits: Iterable[RuleHit]) -> None:
    """Raises RefusedError for the first rule that refuses a variant, if any does."""
    for hit in hits:
        if hit.severity is Severity.REFUSE:
            raise RefusedError(
                f"{hit.statement} ({hit.rule})",
                where=variant.identifier,
                actual=hit.actual,
                expected=hit.expected,
                remedy=hit.remedy,
            )


def _applied(rule: Rule, variant: Variant, facts: Facts) -> RuleHit | None:
    finding = rule.predicate(variant, facts)
    if finding is None:
        return None
    return RuleHit(
        rule=rule.identifier,
        severity=rule.severity,
        statement=rule.statement,
        source=rule.source,
        actual=finding.actual,
        expected=finding.expected,
        remedy=finding.remedy,
    )
