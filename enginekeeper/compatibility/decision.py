"""The decision: may an engine that was judged run in a place; reuse, revalidate, rebuild, refuse.

Rules:

- every rule about key and place is asked; the gravest effect of those that fire is the decision;
- where none of them stands against it, the verdicts decide, as the registry's gate does: those
  in exactly this environment before those that a wider driver scope lets in, the newest first;
- nothing is reused without a passing verdict;
- a verdict that failed there is not answered with another build by itself: the plan does not
  try again what failed either;
- what is not known of the place is no reason for or against: the rules that need it are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from enginekeeper.compatibility.machines import MACHINE_RULES
from enginekeeper.compatibility.places import BOUND, Case, Place, Portability
from enginekeeper.compatibility.placing import Effect, Fired, PlaceRule, fired, unasked
from enginekeeper.compatibility.plans import PLAN_RULES
from enginekeeper.compatibility.rules import Finding
from registry.environments import DriverScope, Environment, judged_there
from registry.keys import EngineKey
from registry.outdated import without_outdated
from registry.types import Result

_GRAVITY = {effect: rank for rank, effect in enumerate(Effect)}
_BLOCKING = (Effect.REBUILD, Effect.REFUSE)


@dataclass(frozen=True)
class Judgement:
    """What one verdict said of the engine; its signature is checked by whoever hands it in."""

    environment: Environment
    result: Result
    fault: str | None = None
    """Why its signature does not count; None for one that does."""
    issued_at: datetime | None = None
    """When it was signed; None where they were recorded in the order in which they were."""


@dataclass(frozen=True)
class Decision:
    """What can be done with an engine in a place, and every rule that says so."""

    action: Effect
    """Never `note`."""
    fired: tuple[Fired, ...]
    """In order; the deciding ones have the action as their effect."""
    unchecked: tuple[str, ...]
    """Rules that need more than is known of the place."""

    @property
    def deciding(self) -> tuple[Fired, ...]:
        """The rules that made the decision."""
        return tuple(one for one in self.fired if one.rule.effect is self.action)

    @property
    def whatever_was_said(self) -> bool:
        """Whether rules about key and place made it, so that no verdict could change it."""
        return self.action in _BLOCKING

    def as_dict(self) -> dict[str, Any]:
        """Returns the decision as JSON values."""
        return {
            "action": str(self.action),
            "rules": [one.as_dict() for one in self.fired],
            "unchecked": list(self.unchecked),
        }


@cache
def place_rules() -> tuple[PlaceRule, ...]:
    """Returns all rules about an engine in a place, in the order in which they are told."""
    # they read their table, and whoever only opens a bench needs neither it nor pydantic
    from enginekeeper.compatibility.drivers import DRIVER_RULES  # noqa: PLC0415

    return (*MACHINE_RULES, *PLAN_RULES, *DRIVER_RULES)


def decide(
    key: EngineKey,
    judgements: Sequence[Judgement],
    place: Place,
    *,
    scope: DriverScope = DriverScope.EXACT,
    portability: Portability = BOUND,
) -> Decision:
    """Decides about an engine in a place; judgements come newest first. Pure and total."""
    found = list(fired(place_rules(), Case(key, place, portability)))
    if not any(one.rule.effect in _BLOCKING for one in found):
        found.append(_judged(judgements, place.environment, scope))
    action = max((one.rule.effect for one in found), key=_GRAVITY.__getitem__)
    return Decision(action, tuple(found), unasked(place_rules(), place))


def blocking(key: EngineKey, environment: Environment) -> tuple[Fired, ...]:
    """Returns the rules by which an engine cannot work in an environment as it is."""
    return blocking_at(key, Place(environment))


def blocking_at(key: EngineKey, place: Place) -> tuple[Fired, ...]:
    """Returns the rules by which an engine cannot work in a place, by all that is known of it."""
    found = fired(place_rules(), Case(key, place))
    return tuple(one for one in found if one.rule.effect in _BLOCKING)


def latest_there(
    judgements: Sequence[Judgement], environment: Environment, scope: DriverScope
) -> Judgement | None:
    """Returns the judgement that decides in an environment, as for the gate; None without any."""
    return next(iter(without_outdated(judged_there(judgements, environment, scope))), None)


def _judged(judgements: Sequence[Judgement], environment: Environment, scope: DriverScope) -> Fired:
    here = latest_there(judgements, environment, scope)
    if here is None:
        elsewhere = sorted({f"{one.result} on {one.environment}" for one in judgements})
        found = "; ".join(elsewhere) or "no verdict at all"
        return _fired(NOT_JUDGED, found, f"a verdict on {environment} (driver scope: {scope})")
    if here.fault is not None:
        return _fired(NOT_ATTESTED, here.fault, f"a verdict on {environment} that counts")
    if here.result is Result.PASS and here.environment != environment:
        return _fired(QUALIFIED_IN_SCOPE, f"pass on {here.environment}", f"driver scope {scope}")
    rule = {
        Result.PASS: QUALIFIED,
        Result.FAIL: FAILED,
        Result.INCONCLUSIVE: INCONCLUSIVE,
    }[here.result]
    return _fired(rule, f"{here.result} on {here.environment}", "pass")


def _fired(rule: PlaceRule, actual: str, expected: str) -> Fired:
    return Fired(rule, Finding(actual=actual, expected=expected, remedy=_REMEDIES[rule.identifier]))


def _by_verdict(identifier: str, statement: str, effect: Effect) -> PlaceRule:
    """Makes a rule that the verdicts decide; as a question about key and place it never fires."""
    return PlaceRule(
        identifier=identifier,
        statement=statement,
        source="registry/gate.py, rules 6 to 9: what the latest verdict there says",
        effect=effect,
        predicate=lambda _case: None,
    )


QUALIFIED = _by_verdict(
    "qualified", "The latest verdict in exactly this environment passed.", Effect.REUSE
)
QUALIFIED_IN_SCOPE = _by_verdict(
    "qualified-in-scope", "The latest verdict that the driver scope lets in passed.", Effect.REUSE
)
NOT_JUDGED = _by_verdict(
    "not-judged-there",
    "An engine is judged anew where driver, CUDA API, product or MIG profile differ.",
    Effect.REVALIDATE,
)
NOT_ATTESTED = _by_verdict(
    "verdict-not-attested",
    "A verdict whose signature does not count is none, and none older stands in for it.",
    Effect.REVALIDATE,
)
INCONCLUSIVE = _by_verdict(
    "inconclusive-there", "A verdict that could not decide is no pass.", Effect.REVALIDATE
)
FAILED = _by_verdict("failed-there", "What failed there does not run there.", Effect.REFUSE)

VERDICT_RULES = (
    QUALIFIED, QUALIFIED_IN_SCOPE, NOT_JUDGED, NOT_ATTESTED, INCONCLUSIVE, FAILED,
)  # fmt: skip
"""The rules of which exactly one fires when nothing about key and place stands against it."""

_REMEDIES = {
    QUALIFIED.identifier: None,
    QUALIFIED_IN_SCOPE.identifier: None,
    NOT_JUDGED.identifier: "judge it on a drained node that has this environment",
    NOT_ATTESTED.identifier: "judge it again there, by a validator that is trusted",
    INCONCLUSIVE.identifier: "judge it again with more prompts",
    FAILED.identifier: "enginekeeper engine explain; then another recipe or toolchain",
}
