"""Verification summaries: SLSA's fields, and never of another verdict."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from registry import layout
from registry.attestations import PREDICATES, SUMMARY_TYPE, Statement, sign
from registry.errors import IntegrityError
from registry.statements import statements_of
from registry.summaries import QUALIFIED, verify_summary
from registry.trust import Purpose
from registry.types import Result
from tests.factories.registry import Workbench


def payload(envelope: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(b64decode(json.loads(envelope)["payload"]))
    return document


@pytest.mark.parametrize(
    ("result", "said", "levels"),
    [
        (Result.PASS, "PASSED", [QUALIFIED]),
        (Result.FAIL, "FAILED", ["FAILED"]),
        (Result.INCONCLUSIVE, "FAILED", ["FAILED"]),
    ],
)
def test_a_summary_says_what_slsa_asks_for(
    bench: Workbench, result: Result, said: str, levels: list[str]
) -> None:
    engine = bench.publish()
    verdict = bench.judge(engine, result)
    assert verdict.vsa is not None
    statement = payload(verdict.vsa)
    predicate = statement["predicate"]
    assert statement["predicateType"] == SUMMARY_TYPE
    assert statement["subject"][0]["digest"] == {"sha256": engine.digest.value}
    assert (predicate["verificationResult"], predicate["verifiedLevels"]) == (said, levels)
    for name in ("verifier", "timeVerified", "resourceUri", "policy", "slsaVersion"):
        assert predicate[name]
    inputs = predicate["inputAttestations"]
    assert {one["digest"]["sha256"] for one in inputs} > {verdict.digest.value}
    for one in inputs:
        assert bench.registry.store.get_document(one["uri"])


def test_a_summary_lies_beside_its_verdict_and_verifies(bench: Workbench) -> None:
    engine = bench.publish()
    verdict = bench.judge(engine)
    (envelope,) = statements_of(bench.registry.store, engine).envelopes(layout.SUMMARY)
    verify_summary(engine, verdict, envelope, bench.signers.trust)
    signature = bench.registry.summary_signature(engine, verdict)
    assert signature is not None
    assert signature.fault is None


def test_the_summary_of_another_verdict_is_refused(bench: Workbench) -> None:
    engine = bench.publish()
    failed, passed = (bench.verdict_on(engine, one) for one in (Result.FAIL, Result.PASS))
    flattering = bench.summary_of(engine, *passed)
    with pytest.raises(IntegrityError, match="not that of the verdict"):
        bench.registry.record_verdict(engine.digest, *failed, flattering)
    assert bench.registry.verdicts(engine.digest) == []


def test_the_summary_of_an_earlier_verdict_is_refused(bench: Workbench) -> None:
    engine = bench.publish()
    document, earlier = bench.verdict_on(engine)
    _, later = bench.verdict_on(engine)
    with pytest.raises(IntegrityError, match="not that of the verdict"):
        bench.registry.record_verdict(
            engine.digest, document, later, bench.summary_of(engine, document, earlier)
        )


def test_a_test_result_is_no_summary_and_a_summary_no_test_result(bench: Workbench) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine)
    with pytest.raises(IntegrityError, match="says something else"):
        bench.registry.record_verdict(engine.digest, document, envelope, envelope)
    vsa = bench.summary_of(engine, document, envelope)
    with pytest.raises(IntegrityError, match="says something else") as caught:
        bench.registry.record_verdict(engine.digest, document, vsa)
    assert PREDICATES[Purpose.VERDICT] in str(caught.value)


def test_a_builder_signs_no_summary(bench: Workbench) -> None:
    engine = bench.publish()
    verdict = bench.judge(engine)
    assert verdict.vsa is not None
    predicate = payload(verdict.vsa)["predicate"]
    statement = Statement(engine.digest, Purpose.VERDICT, predicate, predicate_type=SUMMARY_TYPE)
    forged = sign(statement, bench.signers.builder)
    with pytest.raises(IntegrityError, match="signature does not count"):
        verify_summary(engine, verdict, forged, bench.signers.trust)


@pytest.mark.parametrize("field", ["inputAttestations", "verificationResult", "timeVerified"])
def test_a_malformed_summary_is_refused_though_well_signed(bench: Workbench, field: str) -> None:
    engine = bench.publish()
    verdict = bench.judge(engine)
    assert verdict.vsa is not None
    predicate = {k: v for k, v in payload(verdict.vsa)["predicate"].items() if k != field}
    statement = Statement(engine.digest, Purpose.VERDICT, predicate, predicate_type=SUMMARY_TYPE)
    with pytest.raises(IntegrityError, match="malformed"):
        verify_summary(
            engine, verdict, sign(statement, bench.signers.validator), bench.signers.trust
        )
