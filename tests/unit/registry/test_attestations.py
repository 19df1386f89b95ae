"""Signed statements: only the right key, for the right purpose, about the right bytes, counts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from registry.attestations import (
    BuildRecord,
    Statement,
    VerdictClaim,
    provenance,
    read_claim,
    read_key_digest,
    recording,
    sign,
    test_result,
    verify,
    verify_build,
    verify_reference,
)
from registry.digests import Digest, canonical_json, digest_bytes
from registry.envelopes import PAYLOAD_TYPE
from registry.environments import Environment
from registry.errors import IntegrityError, InvalidRecordError
from registry.manifests import FileEntry, Manifest
from registry.signing import trusted
from registry.trust import Purpose, Trust
from registry.types import Result
from tests.factories.registry import CPU, H100, REFERENCE_KEY, START, Signers, cpu_key

SIGNERS = Signers()
TRUST = SIGNERS.trust
MANIFEST = Manifest("engine", (FileEntry("a", 1, digest_bytes(b"a")),), cpu_key().digest())
ENGINE = MANIFEST.digest
RECORD = BuildRecord("urn:test:builder", "run-1", START, START, {"weights": digest_bytes(b"w")})
BUILD = provenance(MANIFEST, cpu_key(), RECORD)
CLAIM = VerdictClaim(Result.PASS, CPU, digest_bytes(b"document"), START, passed=("kl",))
VERDICT = test_result(ENGINE, CLAIM)
SCORES = Manifest("reference", (FileEntry("a", 1, digest_bytes(b"a")),), REFERENCE_KEY)
REFERENCE = recording(SCORES, RECORD)


def signed_by(signer: CryptoSigner, payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(signer)
    return canonical_json(envelope.to_dict())


def test_a_build_statement_is_slsa_provenance_over_the_manifest() -> None:
    envelope = sign(BUILD, SIGNERS.builder)
    statement = verify_build(envelope, TRUST, cpu_key(), subject=ENGINE, simulated=False)
    document = json.loads(statement.to_bytes())
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert document["subject"] == [{"name": "manifest.json", "digest": {"sha256": ENGINE.value}}]
    assert set(document["predicate"]) == {"buildDefinition", "runDetails"}
    assert read_key_digest(statement) == cpu_key().digest()


def test_a_reference_statement_is_slsa_provenance_over_the_manifest() -> None:
    envelope = sign(REFERENCE, SIGNERS.recorder)
    statement = verify_reference(
        envelope, TRUST, REFERENCE_KEY, subject=SCORES.digest, simulated=False
    )
    definition = json.loads(statement.to_bytes())["predicate"]["buildDefinition"]
    assert definition["buildType"] == "urn:enginekeeper:reference:v1"
    assert [one["name"] for one in definition["resolvedDependencies"]] == ["weights"]
    assert read_key_digest(statement) == REFERENCE_KEY


def test_a_reference_counts_for_what_it_was_made_from_only() -> None:
    envelope = sign(REFERENCE, SIGNERS.recorder)
    wanted = Digest("ek-work-v1", "6" * 64)
    with pytest.raises(IntegrityError, match="about another key") as caught:
        verify_reference(envelope, TRUST, wanted, subject=SCORES.digest, simulated=False)
    assert (caught.value.actual, caught.value.expected) == (REFERENCE_KEY, wanted)


@pytest.mark.parametrize("signer", [SIGNERS.builder, SIGNERS.validator, SIGNERS.simulated_recorder])
def test_only_a_recorder_vouches_for_a_reference(signer: CryptoSigner) -> None:
    with pytest.raises(IntegrityError, match="signature does not count"):
        verify_reference(
            sign(REFERENCE, signer), TRUST, REFERENCE_KEY, subject=SCORES.digest, simulated=False
        )


def test_a_reference_statement_is_no_build_even_by_a_key_that_is_trusted_for_both() -> None:
    both = TRUST.with_key(trusted(SIGNERS.recorder, Purpose.BUILD))
    envelope = sign(REFERENCE, SIGNERS.recorder)
    with pytest.raises(IntegrityError, match="about another key"):
        verify_build(envelope, both, cpu_key(), subject=SCORES.digest, simulated=False)


@pytest.mark.parametrize("result", list(Result))
@pytest.mark.parametrize("environment", [CPU, H100], ids=["cpu", "gpu"])
def test_a_verdict_statement_reads_back_as_the_claim(
    result: Result, environment: Environment
) -> None:
    claim = replace(CLAIM, result=result, environment=environment)
    envelope = sign(test_result(ENGINE, claim), SIGNERS.validator)
    assert read_claim(verify(envelope, TRUST, Purpose.VERDICT, subject=ENGINE)) == claim


def _refused(
    envelope: bytes,
    purpose: Purpose = Purpose.VERDICT,
    *,
    trust: Trust = TRUST,
    simulated: bool = False,
) -> str:
    with pytest.raises(IntegrityError) as caught:
        verify(envelope, trust, purpose, subject=ENGINE, simulated=simulated)
    return caught.value.what


def test_a_signature_counts_for_its_purpose_only() -> None:
    assert _refused(sign(VERDICT, SIGNERS.builder)) == "the signature does not count"
    assert _refused(sign(BUILD, SIGNERS.validator), Purpose.BUILD) == "the signature does not count"


def test_a_good_signature_on_another_kind_of_statement_is_refused() -> None:
    both = TRUST.with_key(trusted(SIGNERS.builder, Purpose.VERDICT))
    assert _refused(sign(BUILD, SIGNERS.builder), trust=both) == "the statement says something else"


def test_a_statement_about_another_engine_is_refused() -> None:
    other = test_result(digest_bytes(b"other"), CLAIM)
    assert "another artifact" in _refused(sign(other, SIGNERS.validator))


def test_an_unknown_key_is_refused() -> None:
    stranger = CryptoSigner.generate_ed25519()
    assert _refused(sign(VERDICT, stranger)) == "the signature does not count"
    assert (
        _refused(sign(VERDICT, SIGNERS.validator), trust=Trust()) == "the signature does not count"
    )


def test_the_two_worlds_do_not_mix() -> None:
    simulated = test_result(ENGINE, replace(CLAIM, simulated=True))
    assert "does not count" in _refused(sign(simulated, SIGNERS.simulated_validator))
    assert "does not count" in _refused(sign(VERDICT, SIGNERS.validator), simulated=True)
    assert "do not agree" in _refused(sign(simulated, SIGNERS.validator))
    assert "do not agree" in _refused(sign(VERDICT, SIGNERS.simulated_validator), simulated=True)
    verify(
        sign(simulated, SIGNERS.simulated_validator), TRUST, Purpose.VERDICT,
        subject=ENGINE, simulated=True,
    )  # fmt: skip


def test_a_key_digest_that_was_not_signed_is_refused() -> None:
    envelope = sign(BUILD, SIGNERS.builder)
    with pytest.raises(IntegrityError, match="another key"):
        verify_build(envelope, TRUST, cpu_key(recipe="fp8"), subject=ENGINE, simulated=False)


def _edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(sign(VERDICT, SIGNERS.validator))
    change(document)
    return json.dumps(document).encode()


def _other_payload(document: dict[str, Any]) -> None:
    payload = base64.b64decode(document["payload"]).replace(b"PASSED", b"FAILED")
    document["payload"] = base64.b64encode(payload).decode()


@pytest.mark.parametrize(
    "change",
    [
        _other_payload,
        lambda d: d.update(payloadType="text/plain"),
        lambda d: d["signatures"].clear(),
        lambda d: d["signatures"].append(d["signatures"][0]),
        lambda d: d["signatures"][0].update(sig="AAAA"),
        lambda d: d["signatures"][0].update(sig=5),
        lambda d: d["signatures"][0].update(keyid="0" * 64),
        lambda d: d["signatures"][0].update(keyid=SIGNERS.builder.public_key.keyid),
        lambda d: d.pop("payload"),
        lambda d: d.update(payload="%%%"),
        lambda d: d.update(signatures={"a": 1}),
        lambda d: d.update(signatures=[1]),
    ],
)
def test_an_altered_envelope_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    _refused(_edited(change))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_is_accepted_as_something_else(position: int, flip: int) -> None:
    envelope = bytearray(sign(VERDICT, SIGNERS.validator))
    envelope[position % len(envelope)] ^= flip
    try:
        statement = verify(bytes(envelope), TRUST, Purpose.VERDICT, subject=ENGINE)
    except IntegrityError:
        return
    assert statement == VERDICT  # e.g. the other alphabet of base64, or a letter's case in a name


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\x80", b'{"a":1,"a":2}', b"[" * 100_000])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    assert "not a DSSE envelope" in _refused(data)


def test_a_payload_of_another_type_is_refused_though_well_signed() -> None:
    envelope = signed_by(SIGNERS.validator, VERDICT.to_bytes(), "application/octet-stream")
    assert "something else" in _refused(envelope)


@pytest.mark.parametrize(
    "payload",
    [b"not json", b"{}", b'{"subject":[],"_type":1,"predicateType":1,"predicate":1}', b"[]"],
)
def test_a_malformed_statement_is_refused_though_well_signed(payload: bytes) -> None:
    assert "malformed" in _refused(signed_by(SIGNERS.validator, payload))


@pytest.mark.parametrize(
    "predicate",
    [
        {}, {"result": "PASSED"}, {"result": "PASSED", "configuration": []},
        {"result": "MAYBE", "configuration": VERDICT.predicate["configuration"]},
        {"result": "PASSED", "configuration": [{"digest": {"sha256": "x"}, "annotations": {}}]},
    ],
)  # fmt: skip
def test_a_malformed_claim_is_refused_though_well_signed(predicate: dict[str, Any]) -> None:
    statement = Statement(ENGINE, Purpose.VERDICT, predicate)
    assert "malformed" in _refused(sign(statement, SIGNERS.validator))


@pytest.mark.parametrize(
    "predicate",
    [
        {}, {"buildDefinition": {"internalParameters": {}}},
        {"buildDefinition": {"internalParameters": {"simulated": "no"}}},
    ],
)  # fmt: skip
def test_a_malformed_build_statement_is_refused(predicate: dict[str, Any]) -> None:
    statement = Statement(ENGINE, Purpose.BUILD, predicate)
    assert "malformed" in _refused(sign(statement, SIGNERS.builder), Purpose.BUILD)


@pytest.mark.parametrize("digest", [{}, {"keyDigest": 5}, {"keyDigest": "none"}])
def test_a_build_statement_without_a_key_is_refused(digest: dict[str, Any]) -> None:
    notes = {"simulated": False, "signedAt": START.isoformat(), **digest}
    predicate = {"buildDefinition": {"internalParameters": notes}}
    envelope = sign(Statement(ENGINE, Purpose.BUILD, predicate), SIGNERS.builder)
    with pytest.raises(IntegrityError, match="no key digest"):
        verify_build(envelope, TRUST, cpu_key(), subject=ENGINE, simulated=False)


def test_a_claim_must_say_whether_it_is_simulated() -> None:
    predicate = json.loads(VERDICT.to_bytes())["predicate"]
    predicate["configuration"][0]["annotations"]["simulated"] = "no"
    envelope = sign(Statement(ENGINE, Purpose.VERDICT, predicate), SIGNERS.validator)
    assert "malformed" in _refused(envelope)


def test_a_build_statement_without_a_time_is_refused() -> None:
    predicate = {"buildDefinition": {"internalParameters": {"simulated": False}}}
    envelope = sign(Statement(ENGINE, Purpose.BUILD, predicate), SIGNERS.builder)
    assert "no time of signing" in _refused(envelope, Purpose.BUILD)


def test_a_time_without_a_zone_is_not_signed() -> None:
    naive = datetime(2026, 11, 24)  # noqa: DTZ001 - that is the point
    with pytest.raises(InvalidRecordError, match="without a time zone"):
        test_result(ENGINE, replace(CLAIM, issued_at=naive))


def test_a_digest_of_another_scheme_is_no_subject() -> None:
    statement = replace(VERDICT, subject=Digest("md5", "0" * 64))
    assert "malformed" in _refused(sign(statement, SIGNERS.validator))
