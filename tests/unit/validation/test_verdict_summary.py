"""The first lines of a verdict: who is to blame, and what there was no room for."""

from __future__ import annotations

from dataclasses import replace

from enginekeeper.validation.dictionary import Culprit
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.verdict import judge
from tests.factories.arms import HEALTHY_AUDITS, LENIENT, Arm, evidence
from tests.factories.policies import policy


def test_the_summary_counts_the_findings_it_has_no_room_for(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    findings = tuple(
        Finding("weights.scale", "fail", f"layer {i}", f"layer {i} is wrong") for i in range(5)
    )
    audits = (HEALTHY_AUDITS[0], AuditReport("weights", findings))

    verdict = judge(evidence(tokens, arm, audits=audits), policy())

    assert "layer 2 is wrong; and 2 more findings of the audits" in verdict.summary
    assert len(verdict.faults) == 5


def test_a_culprit_stands_before_the_distance_it_explains(tokens: TokenizedSuite, arm: Arm) -> None:
    names = ("model.layers.15.mlp.down_proj", "model.layers.15.mlp.up_proj")
    wrong = evidence(tokens, arm, engine={"noise": 1.5, "seed": 2})
    found = replace(wrong, culprits=(Culprit(names, 0.0314, 40.0, 0.52),))

    verdict = judge(found, LENIENT)

    assert verdict.summary.startswith(f"FAIL: the gain of {' or '.join(names)} is +3.14% off")
    assert [fault.check for fault in verdict.faults[:2]] == ["fidelity.culprit", "fidelity.kl"]
    assert verdict.faults[0].actual == 1.0314
    assert verdict.document()["culprits"][0]["names"] == list(names)


def test_a_culprit_of_an_engine_that_passes_is_nobody(tokens: TokenizedSuite, arm: Arm) -> None:
    healthy = replace(evidence(tokens, arm), culprits=(Culprit(("lm_head",), 0.5, 9.0, 0.5),))

    assert judge(healthy, policy()).result == "pass"
