"""The gate: may this engine run in this environment, by which rule, on what evidence.

The rules, in the order they are tried; the first that applies decides:

1. `build-not-attested`: no trusted builder signed these bytes for this key and these names (model,
   recipe, target, variant) → closed (integrity);
2. `revoked`: somebody who may revoke signed that it must not run any more → closed;
   `revocation-not-attested`: a revocation is recorded whose signature does not count → closed, too
   (integrity); `quarantined`: an operator holds it → closed;
   `restored-unchecked`: the catalogue was restored from a backup, and the store cannot say whether
   the engine was revoked since → closed;
3. `simulated-on-real-node`: a simulated engine, a node that is not enrolled as one → closed;
4. `stale-snapshot`: the trust asks for a fresh signed snapshot of the registry, and there is none;
   `revoked`, too, where that snapshot says so; `clock-set-back`: by a clock that is behind what was
   seen here nothing can be told to have expired → closed;
5. `incompatible`: a compatibility rule says that it cannot work there → closed (refused);
6. `never-judged`: no verdict at all → closed;
7. `not-qualified-here`: verdicts, but none in this environment → closed;
8. `verdict-not-attested`: the verdict's signature does not count, or what is recorded is not
   what was signed → closed (integrity);
9. `verdict-failed`, `verdict-inconclusive`, `qualified`: what the latest verdict here says.

A rule that a signed waiver names (`registry.waivers` says which can be) is passed over, and the
next is tried; what is open only by that is open by rule `waived`, and says whose waiver it was.
The latest verdict wins, whatever came before; a pass that was issued before one that is none is not
the latest, whenever it was recorded. Verdicts in exactly this environment count before
those that only a wider driver scope lets in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from registry.digests import Digest
from registry.environments import DriverScope, Environment, covers, judged_there
from registry.errors import (
    GateClosedError,
    GateInconclusiveError,
    GateRefusedError,
    IntegrityError,
    RegistryError,
)
from registry.freshness import Freshness
from registry.keys import EngineKey
from registry.outdated import without_outdated
from registry.revocations import verify_revocation
from registry.standing import Standing, StandingChange, held_by
from registry.trust import Trust
from registry.types import Engine, Result, Verdict, Waiver
from registry.verification import verify_engine, verify_verdict
from registry.waivers import WAIVABLE, verify_waiver


class GateOutcome(StrEnum):
    """Whether an engine may run."""

    OPEN = "open"
    CLOSED = "closed"
    INCONCLUSIVE = "inconclusive"


class GateFamily(StrEnum):
    """What kind of answer a decision is; the command line has an exit code for each."""

    OK = "ok"
    CLOSED = "closed"
    INCONCLUSIVE = "inconclusive"
    REFUSED = "refused"
    INTEGRITY = "integrity"


@dataclass(frozen=True)
class Refusal:
    """Why a compatibility rule says that an engine cannot work in an environment."""

    rule: str
    reason: str
    evidence: tuple[str, ...] = ()


Compatibility = Callable[[EngineKey, Environment], Refusal | None]
"""Says why a key cannot work in an environment, or None; handed in from the layer above."""


@dataclass(frozen=True)
class GatePolicy:
    """What the gate is asked to hold an engine to."""

    trust: Trust
    compatibility: Compatibility
    driver_scope: DriverScope = DriverScope.EXACT
    simulated_node: bool = False
    """The node is *enrolled* as simulated; what a node says of itself does not count."""

    waivers: tuple[Waiver, ...] = ()
    """Of the engine, as recorded: the gate verifies them."""

    freshness: Freshness | None = None
    """What the registry's snapshot is worth, where one is asked for."""

    unread: str | None = None
    """Why it is not known what a restored catalogue lacks about the engine, if it is not."""


@dataclass(frozen=True)
class GateDecision:
    """What the gate decided on one engine in one environment, and why."""

    outcome: GateOutcome
    rule: str
    reason: str
    family: GateFamily
    engine: Digest
    environment: Environment
    evidence: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    """The rules that a waiver passed over, each with whose it was, why and until when."""
    verdict: Digest | None = None
    """The verdict that decided, if one did."""

    @property
    def is_open(self) -> bool:
        """True when the engine may run."""
        return self.outcome is GateOutcome.OPEN

    def as_dict(self) -> dict[str, Any]:
        """Returns the decision as a JSON object."""
        return {
            "outcome": str(self.outcome),
            "rule": self.rule,
            "reason": self.reason,
            "family": str(self.family),
            "engine": str(self.engine),
            "environment": self.environment.as_dict(),
            "evidence": list(self.evidence),
            "waived": list(self.waived),
            "verdict": None if self.verdict is None else str(self.verdict),
        }

    def require_open(self, *, remedy: str | None = None) -> None:
        """Raises the error of the decision's family unless the gate is open."""
        errors: dict[GateFamily, type[RegistryError]] = {
            GateFamily.CLOSED: GateClosedError,
            GateFamily.INCONCLUSIVE: GateInconclusiveError,
            GateFamily.REFUSED: GateRefusedError,
            GateFamily.INTEGRITY: IntegrityError,
        }
        if self.family in errors:
            raise errors[self.family](
                f"the gate is {self.outcome}: {self.reason}",
                where=f"engine {self.engine.short} on {self.environment}",
                actual="; ".join(self.evidence) or None,
                expected=f"rule {self.rule} not to apply",
                remedy=remedy or self._next(),
            )

    def _next(self) -> str:
        """Says what to do; nothing but a release ends a quarantine."""
        release = f"enginekeeper engine release {self.engine.short}"
        looked = f"once it was looked into: {release}; " if self.rule == "quarantined" else ""
        return f"{looked}enginekeeper engine show {self.engine.short}"


@dataclass(frozen=True)
class _Case:
    engine: Engine
    environment: Environment
    policy: GatePolicy

    def decide(
        self, family: GateFamily, rule: str, reason: str, evidence: Sequence[str] = (), *,
        verdict: Digest | None = None,
    ) -> GateDecision:  # fmt: skip
        outcomes = {
            GateFamily.OK: GateOutcome.OPEN,
            GateFamily.INCONCLUSIVE: GateOutcome.INCONCLUSIVE,
        }
        return GateDecision(
            outcomes.get(family, GateOutcome.CLOSED), rule, reason, family,
            self.engine.digest, self.environment, tuple(evidence), verdict=verdict,
        )  # fmt: skip


def decide(
    engine: Engine,
    verdicts: Sequence[Verdict],
    environment: Environment,
    policy: GatePolicy,
    *,
    standing: Sequence[StandingChange] = (),
) -> GateDecision:
    """Decides whether an engine may run in an environment; verdicts come newest first.

    So do the changes of the engine's standing.
    """
    case = _Case(engine, environment, policy)
    waived: list[GateDecision] = []
    for decision in _decisions(case, verdicts, standing):
        if decision.is_open or (waiver := _waiver_for(case, decision)) is None:
            return _opened_by(waived, decision)
        waived.append(_passed_over(decision, waiver, policy.trust.longest_waiver))
    return _opened_by(waived, waived[-1])


def _decisions(
    case: _Case, verdicts: Sequence[Verdict], standing: Sequence[StandingChange]
) -> Iterator[GateDecision]:
    """Yields what each rule that applies decides, in order; the last one stands for the verdict."""
    stands = partial(_standing, changes=standing)
    for rule in (_attested, stands, _known, _simulated, _fresh, _compatible):
        if (refused := rule(case)) is not None:
            yield refused
    yield _judged(case, verdicts)


def _judged(case: _Case, verdicts: Sequence[Verdict]) -> GateDecision:
    if not verdicts:
        return case.decide(GateFamily.CLOSED, "never-judged", "no verdict on it is recorded")
    here = judged_there(verdicts, case.environment, case.policy.driver_scope)
    if not here:
        judged = sorted({f"{verdict.result} on {verdict.environment}" for verdict in verdicts})
        scope = case.policy.driver_scope
        reason = f"it was never judged on {case.environment} (driver scope: {scope})"
        return case.decide(GateFamily.CLOSED, "not-qualified-here", reason, judged)
    return _by_verdict(case, without_outdated(here)[0])


def _waiver_for(case: _Case, decision: GateDecision) -> Waiver | None:
    """Returns the waiver in force that passes over what a rule decided, or None."""
    if decision.rule not in WAIVABLE:
        return None
    return next((one for one in case.policy.waivers if _waives(case, decision, one)), None)


def _waives(case: _Case, decision: GateDecision, waiver: Waiver) -> bool:
    """Says whether a waiver that counts passes over what a rule decided here and now."""
    policy, where = case.policy, waiver.environment
    here = where is None or covers(where, case.environment, policy.driver_scope)
    trust = policy.trust
    if not here or waiver.state(trust.clock(), trust.longest_waiver) != "in force":
        return False
    # The waiver for a missing snapshot cannot be in it; every other one must be.
    vouched = policy.freshness is None or policy.freshness.counts(waiver.digest)
    if not vouched and decision.rule != "stale-snapshot":
        return False
    try:
        grant = verify_waiver(case.engine, waiver, trust)
    except IntegrityError:
        return False
    return grant.covers(decision.rule, decision.verdict)


def _passed_over(decision: GateDecision, waiver: Waiver, longest: timedelta) -> GateDecision:
    said = (
        f"{decision.rule} ({decision.reason}): waiver {waiver.digest.short} by "
        f"{waiver.granted_by} until {waiver.ends(longest).isoformat(timespec='seconds')}: "
        f"{waiver.reason}"
    )
    return replace(decision, waived=(said,))


def _opened_by(waived: Sequence[GateDecision], last: GateDecision) -> GateDecision:
    """Returns the last decision; one that is open only because of waivers says so."""
    said = tuple(line for one in waived for line in one.waived)
    if not said or not (last.is_open or last in waived):
        return last
    reason = f"{len(said)} of the gate's rules {'is' if len(said) == 1 else 'are'} waived"
    return replace(
        last, outcome=GateOutcome.OPEN, family=GateFamily.OK, rule="waived", reason=reason,
        waived=said, evidence=(*said, *last.evidence),
    )  # fmt: skip


def _attested(case: _Case) -> GateDecision | None:
    engine = case.engine
    try:
        verify_engine(engine, case.policy.trust)
    except IntegrityError as error:
        return case.decide(
            GateFamily.INTEGRITY, "build-not-attested",
            "no trusted builder signed these bytes, this key and these names",
            str(error).splitlines(),
        )  # fmt: skip
    return None


def _standing(case: _Case, changes: Sequence[StandingChange]) -> GateDecision | None:
    held = held_by(changes)
    if held is None:
        return None
    if held.kind is not Standing.REVOKED:
        return case.decide(GateFamily.CLOSED, "quarantined", "it is quarantined", [str(held)])
    try:
        said = verify_revocation(case.engine, (held.envelope or "").encode(), case.policy.trust)
    except IntegrityError as error:
        return case.decide(
            GateFamily.INTEGRITY, "revocation-not-attested",
            "a revocation of it is recorded that nobody trusted signed; it counts until it is "
            "looked into", [str(held), *str(error).splitlines()],
        )  # fmt: skip
    signed = replace(held, reason=said.reason, actor=said.actor, changed_at=said.revoked_at)
    return case.decide(GateFamily.CLOSED, "revoked", "it was revoked", [str(signed)])


def _known(case: _Case) -> GateDecision | None:
    if case.policy.unread is None:
        return None
    reason = "the catalogue was restored, and it cannot be told whether it was revoked since"
    evidence = case.policy.unread.splitlines()
    return case.decide(GateFamily.CLOSED, "restored-unchecked", reason, evidence)


def _simulated(case: _Case) -> GateDecision | None:
    if case.engine.simulated and not case.policy.simulated_node:
        return case.decide(
            GateFamily.CLOSED, "simulated-on-real-node",
            "it is simulated, and the node is not enrolled as simulated",
        )  # fmt: skip
    return None


def _fresh(case: _Case) -> GateDecision | None:
    freshness = case.policy.freshness
    if freshness is None:
        return None
    if freshness.revokes(case.engine.digest):
        reason = "the registry's signed snapshot says that it was revoked"
        return case.decide(GateFamily.CLOSED, "revoked", reason)
    if freshness.fault is None:
        return None
    evidence = freshness.fault.splitlines()
    if freshness.set_back:
        reason = "it cannot be told what has expired: the clock of this machine was set back"
        return case.decide(GateFamily.CLOSED, "clock-set-back", reason, evidence)
    reason = "it cannot be told whether it was revoked: there is no fresh signed snapshot"
    return case.decide(GateFamily.CLOSED, "stale-snapshot", reason, evidence)


def _compatible(case: _Case) -> GateDecision | None:
    refusal = case.policy.compatibility(case.engine.key, case.environment)
    if refusal is None:
        return None
    evidence = (f"compatibility rule {refusal.rule}", *refusal.evidence)
    return case.decide(GateFamily.REFUSED, "incompatible", refusal.reason, evidence)


def _by_verdict(case: _Case, verdict: Verdict) -> GateDecision:
    evidence = [
        f"verdict {verdict.digest.short} of {verdict.issued_at.isoformat(timespec='seconds')}",
        f"judged on {verdict.environment}",
        verdict.summary,
    ]
    decided = partial(case.decide, evidence=evidence, verdict=verdict.digest)
    try:
        verify_verdict(case.engine, verdict, case.policy.trust)
    except IntegrityError as error:
        reason = "the latest verdict is not what a trusted validator signed"
        evidence += str(error).splitlines()
        return decided(GateFamily.INTEGRITY, "verdict-not-attested", reason)
    if verdict.result is Result.FAIL:
        reason = "the latest verdict on it here failed"
        return decided(GateFamily.CLOSED, "verdict-failed", reason)
    if verdict.result is Result.INCONCLUSIVE:
        reason = "the latest verdict on it here is inconclusive"
        return decided(GateFamily.INCONCLUSIVE, "verdict-inconclusive", reason)
    return decided(GateFamily.OK, "qualified", "a trusted validator passed it here")
