"""The verdict on one engine: pass, fail or inconclusive, with everything it stands on.

Rules:

- two lines: *fidelity* (is it what the recipe says) and *quality* (what does it cost), because
  two valid roundings may differ from each other as much as each from the source, and because a
  fault in one tensor can hide inside what a recipe costs;
- fidelity fails with a quality loss beyond the recipe's: silently wrong; without one: not what
  the recipe says; quality fails alone: honest, but too costly by a named field of the policy;
- a failed audit fails the verdict and names the field with both values;
- what is missing (twin, reference, audit) makes a verdict inconclusive, and never lets it pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from enginekeeper.validation import recipe_audit
from enginekeeper.validation.checks import rounded
from enginekeeper.validation.dictionary import Culprit
from enginekeeper.validation.evidence import Evidence, Line
from enginekeeper.validation.fidelity import failing_checks, fidelity
from enginekeeper.validation.findings import AuditReport, Finding, Result, not_run, worst
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.quality import FAILING_CHECKS as QUALITY_CHECKS
from enginekeeper.validation.quality import quality
from enginekeeper.validation.stopping import EFFECT

SCHEMA = 2
"""2 added `sequential` and `culprits`, and to `fidelity` what reports are drawn from."""

SHOWN_FINDINGS = 3
"""How many findings of the audits fit into the summary."""

REQUIRED_AUDITS = ("config", "weights")
"""What behaviour on short prompts cannot see is only seen here; see docs/validation.md."""

AUDITS = (*REQUIRED_AUDITS, recipe_audit.NAME)
"""The last needs a recipe that was asked for, which a checkpoint from elsewhere has not."""


@dataclass(frozen=True)
class Verdict:
    """What was decided about one engine, from which evidence, by which policy."""

    result: Result
    summary: str
    """One line for somebody paged at night: the result, what is wrong, and the numbers."""
    fidelity: Line
    quality: Line
    audits: tuple[AuditReport, ...]
    faults: tuple[Finding, ...]
    policy: AcceptancePolicy
    evidence: Evidence

    def document(self) -> dict[str, Any]:
        """Returns the verdict as the JSON document that is signed and stored."""
        return {
            "schema": SCHEMA,
            "result": self.result,
            "summary": self.summary,
            "fidelity": self.fidelity.as_dict(),
            "quality": self.quality.as_dict(),
            "audits": [audit.as_dict() for audit in self.audits]
            + [not_run(name) for name in _missing(AUDITS, self.audits)],
            "checks": [
                check.as_dict() for line in (self.fidelity, self.quality) for check in line.checks
            ],
            "faults": [{"name": fault.check, **fault.as_dict()} for fault in self.faults],
            "policy": self.policy.as_dict(),
            "method": self.evidence.rule.method,
            "culprits": [culprit.as_dict() for culprit in self.evidence.culprits],
            "sequential": _spent(self.evidence, self.policy),
            "evidence": _describe(self.evidence),
        }


def judge(evidence: Evidence, policy: AcceptancePolicy) -> Verdict:
    """Decides about one engine; the same evidence and policy always give the same verdict."""
    what_it_is = fidelity(evidence, policy)
    what_it_costs = quality(evidence, policy)
    missing = _missing(REQUIRED_AUDITS, evidence.audits)
    result = worst(
        (
            *(audit.result for audit in evidence.audits),
            "inconclusive" if missing else "pass",
            what_it_is.result,
            what_it_costs.line.result,
        )
    )
    audited = tuple(
        finding
        for audit in evidence.audits
        for finding in audit.findings
        if finding.result == "fail"
    )
    located = tuple(map(_located, evidence.culprits)) if what_it_is.result == "fail" else ()
    audited = (*audited, *located)
    faults = (*audited, *what_it_is.findings, *what_it_costs.line.findings)
    lines, worse = (what_it_is, what_it_costs.line), what_it_costs.worse_than_recipe
    said = (
        *_says(lines, audited, missing, worse=worse),
        *(_doubts(evidence.audits) if result == "inconclusive" else ()),
    )
    return Verdict(
        result=result,
        summary=f"{result.upper()}: {'; '.join((*said, *_where_it_ended(evidence)))}",
        fidelity=what_it_is,
        quality=what_it_costs.line,
        audits=evidence.audits,
        faults=faults,
        policy=policy,
        evidence=evidence,
    )


def _located(culprit: Culprit) -> Finding:
    """Says which tensors' gain explains the distance, as a finding beside those of the audits."""
    where = " or ".join(culprit.names)
    return Finding(
        "fidelity.culprit",
        "fail",
        where,
        f"the gain of {where} is {culprit.size} off by what the engine predicts, which "
        f"explains {culprit.explained:.0%} of its distance from the recipe",
        actual=rounded(1.0 + culprit.gain),
        expected=1.0,
        taxonomy="T1",
    )


def _missing(names: tuple[str, ...], audits: tuple[AuditReport, ...]) -> tuple[str, ...]:
    present = {audit.check for audit in audits}
    return tuple(name for name in names if name not in present)


def _says(
    lines: tuple[Line, Line],
    audited: tuple[Finding, ...],
    missing: tuple[str, ...],
    *,
    worse: bool,
) -> Iterator[str]:
    """Gives the clauses of the summary, the culprit first; doubt is left out beside a failure."""
    yield from (_placed(finding) for finding in audited[:SHOWN_FINDINGS])
    if len(audited) > SHOWN_FINDINGS:
        yield f"and {len(audited) - SHOWN_FINDINGS} more findings of the audits"
    what_it_is, what_it_costs = lines
    if what_it_is.result == "fail":
        name = "silently wrong" if worse else "not what was declared, not shown to be worse"
        yield f"{name}: the engine {what_it_is.statement}"
        if what_it_costs.result == "fail":
            yield f"it {what_it_costs.statement}"
    elif what_it_costs.result == "fail":
        name = "honest but too costly" if what_it_is.result == "pass" else "too costly"
        yield f"{name}: the engine {what_it_costs.statement}"
        yield f"it {what_it_is.statement}"
    else:
        yield f"the engine {what_it_is.statement}"
        yield f"it {what_it_costs.statement}"
    if missing:
        yield f"audits not run: {', '.join(missing)}"


def _doubts(audits: tuple[AuditReport, ...]) -> Iterator[str]:
    """Says what an audit could not decide, where nothing failed: it is why the verdict is none."""
    found = [one for audit in audits for one in audit.findings if one.result == "inconclusive"]
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        yield f"an audit could not decide: {_placed(found[0])}{more}"


def _placed(finding: Finding) -> str:
    """Says what was found and where: a first line without the tensor or field helps nobody."""
    if finding.where in finding.message:
        return finding.message
    return f"{finding.where}: {finding.message}"


def _where_it_ended(evidence: Evidence) -> tuple[str, ...]:
    """Says how much was scored, where that was less than the suite."""
    if evidence.stopped is None:
        return ()
    scored, of = evidence.engine, len(evidence.tokens.prompts)
    return (f"decided after {scored.prompts} of {of} prompts ({scored.positions} tokens)",)


def _spent(evidence: Evidence, policy: AcceptancePolicy) -> dict[str, Any]:
    """Says at which error rates the run could decide, and where it stopped."""
    error = round(1.0 - policy.confidence, 12)
    return {
        "stopped": None if evidence.stopped is None else evidence.stopped.as_dict(),
        "alpha": error,
        "beta": error,
        "alpha_spent": error * evidence.rule.fail_share,
        "beta_spent": error * evidence.rule.pass_share,
        "checks_that_share_alpha": {
            "fidelity": failing_checks(evidence),
            "quality": QUALITY_CHECKS,
        },
        "smallest_effect": EFFECT,
        "positions": evidence.engine.positions,
        "positions_of_suite": evidence.tokens.positions,
    }


def _describe(evidence: Evidence) -> dict[str, Any]:
    arms = {
        "engine": evidence.engine,
        "source": evidence.source,
        "twin": evidence.twin,
        "checkpoint_twin": evidence.checkpoint_twin,
        "nudged_twin": evidence.nudged,
        "second_source": evidence.second_source,
        "validation_twin": evidence.validation_twin,
    }
    return {
        "tokens": str(evidence.tokens.digest),
        "reference": None if evidence.reference is None else str(evidence.reference),
        "prompts": evidence.engine.prompts,
        "prompts_of_suite": len(evidence.tokens.prompts),
        "positions": evidence.engine.positions,
        "arms": {name: dict(arm.meta) for name, arm in arms.items() if arm is not None},
    }
