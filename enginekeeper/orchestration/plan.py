"""The plan: what a spec's variants would reuse, judge again, build, or not even try, and why.

Planning starts nothing, downloads nothing and installs nothing. Rules, in order:

1. a compatibility rule that refuses a variant ends the matter;
2. an engine of the same key with a verdict of the same acceptance is reused, pass or fail:
   a failed build is not tried again by everyone;
3. an engine of the same key without such a verdict is judged again, not rebuilt;
4. a checkpoint that can be made but not run here is exported;
5. everything else is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from enginekeeper.compatibility.check import check
from enginekeeper.compatibility.estimates import Estimate, estimate
from enginekeeper.compatibility.facts import ModelFacts, facts_of
from enginekeeper.compatibility.rules import RuleHit, Severity
from enginekeeper.specs.variants import Variant
from registry.digests import Digest
from registry.keys import EngineKey
from registry.types import Engine, Verdict


class Action(StrEnum):
    """What would be done about a variant."""

    REUSE = "reuse"
    REVALIDATE = "revalidate"
    BUILD = "build"
    EXPORT = "export"
    """Quantize and audit only: nothing here can run the engine."""

    REFUSE = "refuse"


@dataclass(frozen=True)
class KnownEngine:
    """An engine of a key, and its latest verdict under the acceptance asked for."""

    engine: Engine
    verdict: Verdict | None


@dataclass(frozen=True)
class PlannedVariant:
    """One variant and what would be done about it."""

    variant: Variant
    action: Action
    rule: str
    """What decided: a compatibility rule's id, or one of the plan's own."""

    reason: str
    key: EngineKey | None
    """None while the source model is not on this machine."""

    known: KnownEngine | None
    hits: tuple[RuleHit, ...]
    estimate: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the planned variant as JSON values."""
        known = self.known
        return {
            "variant": str(self.variant.identifier),
            "action": str(self.action),
            "rule": self.rule,
            "reason": self.reason,
            "key": None if self.key is None else str(self.key.digest()),
            "engine": None if known is None else str(known.engine.digest),
            "verdict": None if known is None or known.verdict is None else known.verdict.result,
            "rules": [hit.as_dict() for hit in self.hits],
            "estimate": None if self.estimate is None else self.estimate.as_dict(),
        }


@dataclass(frozen=True)
class Knowledge:
    """What planning may look at."""

    weights: Digest | None
    """Digest of the source model; None if it is not on this machine."""

    model: ModelFacts | None
    key_of: Callable[[Variant, Digest], EngineKey]
    known: Callable[[Variant, EngineKey], KnownEngine | None]


def plan(variants: Sequence[Variant], knowledge: Knowledge) -> tuple[PlannedVariant, ...]:
    """Decides about every variant, in order."""
    return tuple(_planned(variant, knowledge) for variant in variants)


def _planned(variant: Variant, knowledge: Knowledge) -> PlannedVariant:
    if knowledge.model is None or knowledge.weights is None:
        reason = "the source model is not on this machine yet; rules about its shape come then"
        return PlannedVariant(
            variant, Action.BUILD, "source-not-fetched", reason, None, None, (), None
        )
    facts = facts_of(variant, knowledge.model)
    hits = check(variant, facts)
    cost = estimate(variant, facts)
    key = knowledge.key_of(variant, knowledge.weights)
    refusal = _first(hits, Severity.REFUSE)
    if refusal is not None:
        reason = f"{refusal.statement} (found {refusal.actual}, expected {refusal.expected})"
        return PlannedVariant(variant, Action.REFUSE, refusal.rule, reason, key, None, hits, None)
    known = knowledge.known(variant, key)
    action, rule, reason = _decide(known, _first(hits, Severity.EXPORT_ONLY))
    costs = cost if action in (Action.BUILD, Action.EXPORT) else None
    return PlannedVariant(variant, action, rule, reason, key, known, hits, costs)


def _decide(known: KnownEngine | None, export: RuleHit | None) -> tuple[Action, str, str]:
    if export is not None:
        return Action.EXPORT, export.rule, f"{export.statement} (found {export.actual})"
    if known is None:
        return Action.BUILD, "no-engine-of-this-key", "no engine of this key exists"
    name = known.engine.digest.short
    if known.verdict is None:
        return Action.REVALIDATE, "no-verdict", f"engine {name} was never judged by this acceptance"
    result = known.verdict.result
    return Action.REUSE, "same-key", f"engine {name} has the same key; its verdict is {result}"


def _first(hits: Sequence[RuleHit], severity: Severity) -> RuleHit | None:
    return next((hit for hit in hits if hit.severity is severity), None)
