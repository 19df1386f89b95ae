from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.report import render
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.verdict import judge
from registry.digests import digest_bytes
from tests.factories.policies import policy


def test_the_first_line_is_the_summary_and_every_number_is_shown(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    source = arm()
    twin = arm(noise=0.1, targets={"source": source})
    engine = arm(noise=1.5, seed=3, targets={"source": source, "twin": twin})
    verdict = judge(Evidence(tokens, engine, source=source, twin=twin), policy())

    text = render(verdict.document())

    lines = text.splitlines()
    assert lines[0] == verdict.summary
    assert lines[0].startswith("FAIL: ")
    assert "What is wrong" in lines
    assert all(any(check.name in line for line in lines) for check in verdict.fidelity.checks)
    assert "fidelity KL by kind of text: prose" in text


def test_a_stored_document_reads_as_when_it_was_made(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    document = judge(Evidence(tokens, arm()), policy()).document()

    assert render(json.loads(json.dumps(document))) == render(document)


def test_the_reference_is_shown_where_the_verdict_names_one(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    evidence = Evidence(tokens, arm(), reference=digest_bytes(b"reference"))
    document = judge(evidence, policy()).document()

    assert f"reference: {digest_bytes(b'reference')}" in render(document).splitlines()
    del document["evidence"]["reference"]  # as verdicts were before
    assert "reference: " not in render(document)


def test_audit_findings_stand_with_both_values(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    wrong = Finding("config.rotary_base", "fail", "rotary_base", "is absent", 10000, 100000, "T15")
    unsure = replace(wrong, result="inconclusive", where="window")
    audits = (AuditReport("config", (wrong, unsure)),)

    text = render(judge(Evidence(tokens, arm(), audits=audits), policy()).document())

    assert "  rotary_base: is absent [T15]" in text
    assert "    found 10000, expected 100000 (config.rotary_base)" in text
    assert "    inconclusive: window: is absent" in text
    assert "  weights: not run" in text


def test_a_model_that_is_not_what_its_name_says_is_told_of_first(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    document = judge(Evidence(tokens, arm()), policy()).document()
    text = render({**document, "source_note": "dequantized from Q4_1"})
    assert text.splitlines()[1].startswith("Source model: dequantized from Q4_1")


def test_what_doubles_made_is_marked(tokens: TokenizedSuite, arm: Callable[..., Scores]) -> None:
    document = judge(Evidence(tokens, arm()), policy()).document()

    assert render({**document, "simulated": True}).splitlines()[1].startswith("SIMULATED")
    assert "SIMULATED" not in render(document)


def test_repairs_stand_with_both_values(tokens: TokenizedSuite, arm: Callable[..., Scores]) -> None:
    repair = {
        "name": "rope",
        "field": "rotary_base",
        "before": None,
        "after": 1e5,
        "reason": "lost",
    }
    text = render({**judge(Evidence(tokens, arm()), policy()).document(), "repairs": [repair]})
    assert "  rotary_base: lost" in text.splitlines()
    assert "    was None, is 100000.0 (rope)" in text.splitlines()
