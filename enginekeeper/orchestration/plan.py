"""The plan: what a spec's variants would reuse, judge again, build, or not even try, and why.

Planning starts nothing, downloads nothing and installs nothing. Rules, in order:

1. a compatibility rule that refuses a variant ends the matter; rules that need no facts of the
   model are checked before it is here, and the plan names those that are not checked yet;
   but where only vLLM serves the model and the spec has `fallback: vllm`, what follows is decided
   of a vLLM serving bundle in the variant's place;
2. a checkpoint that can be made but not run here is exported, once: when it is published and
   its audits have not changed, it is reused;
3. a variant whose key cannot be told yet is built;
4. an engine whose builder is not trusted any more is none, a verdict whose validator is not
   trusted any more is none: both are made anew;
5. an engine of the same key with a verdict by the same acceptance and validator is reused, pass
   or fail: a failed build is not tried again by everyone;
6. what this version has no builder for is neither built nor judged here, and said so;
7. what failed for a cause that lies in the key is not tried again for a time;
8. an engine of the same key without such a verdict is judged again, not rebuilt;
9. everything else is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from enginekeeper.compatibility.check import check, check_architecture, unchecked
from enginekeeper.compatibility.estimates import REFERENCE, Estimate, estimate
from enginekeeper.compatibility.facts import (
    Facts,
    ModelFacts,
    TargetFacts,
    facts_of,
    target_facts,
)
from enginekeeper.compatibility.memory_plan import MemoryPlan, memory_plan
from enginekeeper.compatibility.platform import ARCHITECTURE
from enginekeeper.compatibility.rules import RuleHit, Severity
from enginekeeper.orchestration.exports import Export
from enginekeeper.specs.fallback import served_by_vllm_alone, stand_in
from enginekeeper.specs.profiles import BuilderKind
from enginekeeper.specs.variants import Variant
from registry.failures.types import BuildFailure
from registry.keys import EngineKey
from registry.types import Engine, Verdict


class Action(StrEnum):
    """What would be done about a variant."""

    REUSE = "reuse"
    REVALIDATE = "revalidate"
    BUILD = "build"
    EXPORT = "export"
    """Quantize and audit only: nothing here can run the engine."""

    ELSEWHERE = "elsewhere"
    """It may well work, but nothing here can build or run it."""

    REFUSE = "refuse"


@dataclass(frozen=True)
class KnownEngine:
    """An engine of a key, and its latest verdict under the acceptance asked for."""

    engine: Engine
    verdict: Verdict | None
    stored: str
    """URL of its files."""

    lost: str | None = None
    """Why a verdict on it is passed over: its signer is not trusted any more."""


@dataclass(frozen=True)
class WithdrawnEngine:
    """An engine of a key whose builder is not trusted any more."""

    engine: Engine
    reason: str


@dataclass(frozen=True)
class PlannedVariant:
    """One variant and what would be done about it."""

    variant: Variant
    action: Action
    rule: str
    """What decided: a compatibility rule's id, or one of the plan's own."""

    reason: str
    key: EngineKey | None
    """None while it cannot be told on this machine."""

    known: KnownEngine | None
    hits: tuple[RuleHit, ...]
    estimate: Estimate | None
    unchecked: tuple[str, ...] = ()
    """Rules that are checked when the source model is here."""

    memory: MemoryPlan | None = None
    """What fits on each GPU; None on the CPU and while the model is not here."""

    exported: Export | None = None
    """The published checkpoint of a variant that nothing here can run."""

    instead_of: Variant | None = None
    """The spec's own variant, where a serving bundle stands in for it."""

    @property
    def asked(self) -> Variant:
        """The variant as the spec has it: what is planned again when more is known."""
        return self.instead_of or self.variant

    def settled(self, *, audits: bool) -> bool:
        """Says whether nothing is to be done; a judgement without audits is always made anew."""
        if self.action is Action.REUSE:
            return audits or self.exported is not None
        return self.action in (Action.REFUSE, Action.ELSEWHERE)

    def as_dict(self) -> dict[str, Any]:
        """Returns the planned variant as JSON values."""
        known = self.known
        return {
            "variant": str(self.variant.identifier),
            "simulated": self.variant.profile.simulated,
            "serving_bundle": self.variant.is_vllm_bundle,
            "action": str(self.action),
            "rule": self.rule,
            "reason": self.reason,
            "key": None if self.key is None else str(self.key.digest()),
            "engine": None if known is None else str(known.engine.digest),
            "checkpoint": None if self.exported is None else str(self.exported.checkpoint.digest),
            "verdict": None if known is None or known.verdict is None else known.verdict.result,
            "rules": [hit.as_dict() for hit in self.hits],
            "unchecked": list(self.unchecked),
            "estimate": None if self.estimate is None else self.estimate.as_dict(),
            "memory": None if self.memory is None else self.memory.as_dict(),
        }


@dataclass(frozen=True)
class UnknownKey:
    """Why a variant's key cannot be told on this machine yet."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Knowledge:
    """What planning may look at."""

    model: ModelFacts | None
    """None while the source model is not on this machine."""

    architecture: str | None
    """Known even where the config says too little for the other facts; None as above."""

    key_of: Callable[[Variant], EngineKey | UnknownKey]
    known: Callable[[Variant, EngineKey], KnownEngine | WithdrawnEngine | None]
    exported: Callable[[EngineKey], Export | None]
    failed: Callable[[EngineKey], BuildFailure | None]
    makers: Collection[BuilderKind]
    """What this version can make engines with, and judge them."""

    gpus: Callable[[], Collection[str]] = tuple
    """The products of this host's GPUs; asked only where a real engine for one is to be made."""


def plan(variants: Sequence[Variant], knowledge: Knowledge) -> tuple[PlannedVariant, ...]:
    """Decides about every variant, in order; the first that is made pays for the reference."""
    planned: list[PlannedVariant] = []
    paid = False
    for variant in variants:
        one = _planned(variant, knowledge)
        if one.estimate is not None and REFERENCE in one.estimate.stages:
            one = replace(one, estimate=one.estimate.without_reference()) if paid else one
            paid = True
        planned.append(one)
    return tuple(planned)


def _planned(variant: Variant, knowledge: Knowledge) -> PlannedVariant:
    model = knowledge.model
    facts = target_facts(variant) if model is None else facts_of(variant, model)
    hits = _hits(variant, facts, knowledge)
    if _falls_back(variant, hits, knowledge):
        return _standing_in(variant, hits, knowledge)
    key, known, exported = knowledge.key_of(variant), None, None
    if (refusal := _first(hits, Severity.REFUSE)) is not None:
        reason = f"{refusal.statement} (found {refusal.actual}, expected {refusal.expected})"
        action, rule = Action.REFUSE, refusal.rule
    elif (export := _first(hits, Severity.EXPORT_ONLY)) is not None:
        exported = knowledge.exported(key) if isinstance(key, EngineKey) else None
        reason = f"{export.statement} (found {export.actual})"
        action, rule = Action.EXPORT, export.rule
        if exported is not None:
            action, rule = Action.REUSE, "same-export"
            name = exported.checkpoint.digest.short
            reason = f"checkpoint {name} is published; its audits: {exported.audits}"
    else:
        action, rule, reason, known = _by_key(variant, key, knowledge)
    if action in (Action.BUILD, Action.REVALIDATE) and not _builds_here(variant, knowledge):
        action, rule = Action.ELSEWHERE, "no-builder-here"
        reason = f"nothing here can build for {variant.target.gpu} and judge what was built"
    made = action in (Action.BUILD, Action.EXPORT, Action.ELSEWHERE)
    return PlannedVariant(
        variant=variant,
        action=action,
        rule=rule,
        reason=reason,
        key=key if isinstance(key, EngineKey) else None,
        known=known,
        hits=hits,
        estimate=estimate(variant, facts) if made and isinstance(facts, Facts) else None,
        unchecked=unchecked(facts) if knowledge.architecture is None else (),
        memory=memory_plan(variant, facts) if isinstance(facts, Facts) else None,
        exported=exported,
    )


def _by_key(
    variant: Variant, key: EngineKey | UnknownKey, knowledge: Knowledge
) -> tuple[Action, str, str, KnownEngine | None]:
    if isinstance(key, UnknownKey):
        return Action.BUILD, key.rule, key.reason, None
    found = knowledge.known(variant, key)
    action, rule, reason = _decide(found)
    if action is Action.BUILD and (failure := knowledge.failed(key)) is not None:
        action, rule, reason = Action.REFUSE, "failed-before", _failed(failure)
    return action, rule, reason, found if isinstance(found, KnownEngine) else None


def _hits(variant: Variant, facts: TargetFacts, knowledge: Knowledge) -> tuple[RuleHit, ...]:
    hits, name = check(variant, facts), knowledge.architecture
    if isinstance(facts, Facts) or name is None:
        return hits
    more = check_architecture(facts, name)
    return hits if more is None else (*hits, more)


def _falls_back(variant: Variant, hits: Sequence[RuleHit], knowledge: Knowledge) -> bool:
    """Says whether a bundle stands in: for the architecture's sake, and not for a wrong spec.

    That a release's list is not verified is no reason to try it: no list at all has the model.
    """
    name = knowledge.architecture
    if variant.fallback != "vllm" or name is None or not served_by_vllm_alone(name):
        return False
    of_target = check(variant, target_facts(variant))
    refused = _first(of_target, Severity.REFUSE) is not None
    return not refused and any(hit.rule == ARCHITECTURE for hit in hits)


def _standing_in(variant: Variant, hits: Sequence[RuleHit], knowledge: Knowledge) -> PlannedVariant:
    bundle = stand_in(variant)
    key = knowledge.key_of(bundle)
    action, rule, reason, known = _by_key(bundle, key, knowledge)
    if action is Action.BUILD:
        rule, reason = "fallback-vllm", f"vLLM serves {knowledge.architecture} meanwhile: {reason}"
    if action in (Action.BUILD, Action.REVALIDATE) and not _builds_here(bundle, knowledge):
        action, rule = Action.ELSEWHERE, "no-builder-here"
        reason = f"nothing here can serve by vLLM on {variant.target.gpu} and judge what is served"
    why = next(hit for hit in hits if hit.rule == ARCHITECTURE)
    return PlannedVariant(
        variant=bundle,
        action=action,
        rule=rule,
        reason=reason,
        key=key if isinstance(key, EngineKey) else None,
        known=known,
        hits=(replace(why, severity=Severity.WARN, remedy=None),),
        estimate=None,
        instead_of=variant,
    )


def _builds_here(variant: Variant, knowledge: Knowledge) -> bool:
    """Says whether an engine can be made and judged here: a real one for a GPU, by that GPU."""
    maker, product = variant.profile.maker, variant.target.product
    if maker not in knowledge.makers:
        return False
    if maker is BuilderKind.VLLM and product is None:
        return True
    if maker not in (BuilderKind.TENSORRT_LLM, BuilderKind.TRTLLM_PYTORCH, BuilderKind.VLLM):
        return True
    return product is not None and product.product in knowledge.gpus()


def _decide(known: KnownEngine | WithdrawnEngine | None) -> tuple[Action, str, str]:
    if known is None:
        return Action.BUILD, "no-engine-of-this-key", "no engine of this key exists"
    name = known.engine.digest.short
    if isinstance(known, WithdrawnEngine):
        reason = f"the builder of engine {name} is not trusted any more: {known.reason}"
        return Action.BUILD, "builder-not-trusted-any-more", reason
    if known.verdict is None and known.lost is not None:
        reason = f"the validator of engine {name} is not trusted any more: {known.lost}"
        return Action.REVALIDATE, "validator-not-trusted-any-more", reason
    if known.verdict is None:
        reason = f"engine {name} was never judged by this acceptance and this validator"
        return Action.REVALIDATE, "no-verdict", reason
    result = known.verdict.result
    return Action.REUSE, "same-key", f"engine {name} has the same key; its verdict is {result}"


def _failed(failure: BuildFailure) -> str:
    return (
        f"it failed on {failure.failed_at:%Y-%m-%d %H:%M} UTC ({failure.actor}): {failure.cause}; "
        f"{failure.remedy}. It is not tried again before {failure.expires_at:%Y-%m-%d}, "
        "but with --retry-failed"
    )


def _first(hits: Sequence[RuleHit], severity: Severity) -> RuleHit | None:
    return next((hit for hit in hits if hit.severity is severity), None)
