"""Signed statements about an artifact: in-toto statements in DSSE envelopes.

Rules:

- a builder signs SLSA provenance, a recorder of references too, a validator signs an in-toto
  test result, a revoker a revocation (`registry.revocations`); the subject is the manifest's
  digest, so that every byte and the key are covered;
- an envelope counts only if a key that is trusted *for that purpose*, under the right trust
  root, signed it; until then its payload is bytes and is not parsed;
- a statement of another kind, about another subject, or from the other world (simulated, real)
  is refused even if the signature is good.

Example:
    envelope = sign(provenance(manifest, key, record), builder)
    statement = verify(envelope, trust, Purpose.BUILD, subject=manifest.digest)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import Signer

from registry.digests import Digest, canonical_json
from registry.documents import read_object
from registry.environments import Environment, environment_from_dict
from registry.errors import IntegrityError, InvalidRecordError
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.trust import Purpose, Trust, TrustRoot
from registry.types import Result

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
BUILD_TYPE = "urn:enginekeeper:build:v1"
REFERENCE_TYPE = "urn:enginekeeper:reference:v1"
PREDICATES: Mapping[Purpose, str] = {
    Purpose.BUILD: "https://slsa.dev/provenance/v1",
    Purpose.VERDICT: "https://in-toto.io/attestation/test-result/v0.1",
    Purpose.REFERENCE: "https://slsa.dev/provenance/v1",
    Purpose.REVOCATION: "urn:enginekeeper:revocation:v1",
}
_RESULTS = {Result.PASS: "PASSED", Result.FAIL: "FAILED", Result.INCONCLUSIVE: "WARNED"}


@dataclass(frozen=True)
class Statement:
    """An in-toto statement about one artifact."""

    subject: Digest
    """The artifact's manifest digest."""
    purpose: Purpose
    predicate: Mapping[str, Any]
    name: str = "manifest.json"

    def to_bytes(self) -> bytes:
        """Returns the payload that is signed."""
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": self.name, "digest": _digest_set(self.subject)}],
                "predicateType": PREDICATES[self.purpose],
                "predicate": dict(self.predicate),
            }
        )


@dataclass(frozen=True)
class BuildRecord:
    """What is known of how something was made, besides its key."""

    builder: str
    """Who made it: a URI, e.g. `urn:enginekeeper:builder:inductor`."""
    invocation: str
    """Names the run, so that its log can be found."""
    started_at: datetime
    finished_at: datetime
    materials: Mapping[str, Digest] = field(default_factory=dict)
    """Everything that went in, by name: weights, checkpoint, tokens, toolchain lock."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What else was asked for, e.g. the build config."""


@dataclass(frozen=True)
class VerdictClaim:
    """What a validator says of an engine."""

    result: Result
    environment: Environment
    """Where the engine was judged."""
    document: Digest
    """Digest of the verdict document, which holds the evidence."""
    issued_at: datetime
    simulated: bool = False
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    """Names of checks, by their result."""
    fidelity: str | None = None
    quality: str | None = None
    summary: str = ""
    """What the verdict document says in one line."""


def provenance(manifest: Manifest, key: EngineKey, record: BuildRecord) -> Statement:
    """States that a manifest's files were built from a key; SLSA provenance v1."""
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {"key": key.as_dict()["hard"], **record.parameters},
        "internalParameters": {
            "keyDigest": str(key.digest()),
            "simulated": manifest.simulated,
            "soft": key.as_dict()["soft"],
        },
    }
    return Statement(manifest.digest, Purpose.BUILD, _provenance(definition, record))


def recording(manifest: Manifest, record: BuildRecord) -> Statement:
    """States that a manifest's files are what a source model said; SLSA provenance v1."""
    definition = {
        "buildType": REFERENCE_TYPE,
        "externalParameters": dict(record.parameters),
        "internalParameters": {"keyDigest": str(manifest.key), "simulated": manifest.simulated},
    }
    return Statement(manifest.digest, Purpose.REFERENCE, _provenance(definition, record))


def test_result(engine: Digest, claim: VerdictClaim) -> Statement:
    """States a verdict on an engine in one environment; in-toto test-result v0.1."""
    configuration = {
        "name": "verdict",
        "digest": _digest_set(claim.document),
        "annotations": {
            "environment": claim.environment.as_dict(),
            "issuedAt": _timestamp(claim.issued_at),
            "simulated": claim.simulated,
            "fidelity": claim.fidelity,
            "quality": claim.quality,
            "summary": claim.summary,
        },
    }
    predicate = {
        "result": _RESULTS[claim.result],
        "configuration": [configuration],
        "passedTests": list(claim.passed),
        "warnedTests": list(claim.warned),
        "failedTests": list(claim.failed),
    }
    return Statement(engine, Purpose.VERDICT, predicate)


test_result.__test__ = False  # type: ignore[attr-defined]  # the predicate's name, not a test's


def sign(statement: Statement, signer: Signer) -> bytes:
    """Returns the DSSE envelope of a statement as JSON."""
    envelope = Envelope(statement.to_bytes(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return canonical_json(envelope.to_dict())


def verify(
    envelope: bytes, trust: Trust, purpose: Purpose, *, subject: Digest, simulated: bool = False
) -> Statement:
    """Returns the statement of an envelope that a trusted key signed; raises IntegrityError."""
    payload = _verified_payload(envelope, trust, purpose, TrustRoot.of(simulated=simulated))
    statement = _read_statement(payload, purpose)
    if statement.subject != subject:
        raise IntegrityError(
            "the statement is about another artifact",
            where=f"{purpose} statement",
            actual=statement.subject,
            expected=subject,
        )
    if says_simulated(statement) is not simulated:
        raise IntegrityError(
            "the statement and the artifact do not agree on whether it is simulated",
            where=f"{purpose} statement",
            actual=not simulated,
            expected=simulated,
        )
    return statement


def verify_build(
    envelope: bytes, trust: Trust, key: EngineKey, *, subject: Digest, simulated: bool
) -> Statement:
    """Returns the build statement of an engine; raises IntegrityError unless it names this key."""
    statement = verify(envelope, trust, Purpose.BUILD, subject=subject, simulated=simulated)
    return _about_key(statement, key.digest())


def verify_reference(
    envelope: bytes, trust: Trust, key: Digest, *, subject: Digest, simulated: bool
) -> Statement:
    """Returns the statement about a reference; raises IntegrityError unless it names this key.

    The key is the digest of everything the reference is made from.
    """
    statement = verify(envelope, trust, Purpose.REFERENCE, subject=subject, simulated=simulated)
    return _about_key(statement, key)


def says_simulated(statement: Statement) -> bool:
    """Returns the `simulated` flag of a statement; raises IntegrityError when it has none."""
    if statement.purpose is Purpose.VERDICT:
        return read_claim(statement).simulated
    try:
        if statement.purpose is Purpose.REVOCATION:
            flag = statement.predicate["simulated"]
        else:
            flag = statement.predicate["buildDefinition"]["internalParameters"]["simulated"]
    except (KeyError, TypeError) as error:
        raise _malformed(statement.purpose, f"no {error}") from error
    if not isinstance(flag, bool):
        raise _malformed(statement.purpose, "simulated is not a boolean")
    return flag


def read_key_digest(statement: Statement) -> Digest:
    """Returns the digest of the key that a statement of provenance names."""
    try:
        text = statement.predicate["buildDefinition"]["internalParameters"]["keyDigest"]
        return Digest.parse(text)
    except (KeyError, TypeError, AttributeError, InvalidRecordError) as error:
        raise _malformed(statement.purpose, f"no key digest ({error})") from error


def read_claim(statement: Statement) -> VerdictClaim:
    """Returns what a verdict statement claims; raises IntegrityError when it is malformed."""
    predicate = statement.predicate
    try:
        (configuration,) = predicate["configuration"]
        notes = configuration["annotations"]
        results = {text: result for result, text in _RESULTS.items()}
        if not isinstance(notes["simulated"], bool):
            raise _malformed(statement.purpose, "simulated is not a boolean")
        return VerdictClaim(
            result=results[predicate["result"]],
            environment=environment_from_dict(notes["environment"]),
            document=_read_digest_set(configuration["digest"]),
            issued_at=datetime.fromisoformat(notes["issuedAt"]),
            simulated=notes["simulated"],
            passed=tuple(predicate.get("passedTests", ())),
            failed=tuple(predicate.get("failedTests", ())),
            warned=tuple(predicate.get("warnedTests", ())),
            fidelity=notes["fidelity"],
            quality=notes["quality"],
            summary=notes["summary"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRecordError) as error:
        raise _malformed(statement.purpose, str(error)) from error


def _provenance(definition: Mapping[str, Any], record: BuildRecord) -> dict[str, Any]:
    materials = [
        {"name": name, "digest": _digest_set(digest)}
        for name, digest in sorted(record.materials.items())
    ]
    details = {
        "builder": {"id": record.builder},
        "metadata": {
            "invocationId": record.invocation,
            "startedOn": _timestamp(record.started_at),
            "finishedOn": _timestamp(record.finished_at),
        },
    }
    return {
        "buildDefinition": {**definition, "resolvedDependencies": materials},
        "runDetails": details,
    }


def _about_key(statement: Statement, key: Digest) -> Statement:
    signed = read_key_digest(statement)
    if signed != key:
        raise IntegrityError(
            "the signed statement is about another key",
            where=f"{statement.purpose} statement",
            actual=signed,
            expected=key,
        )
    return statement


def signers_of(envelope: bytes) -> tuple[str, ...]:
    """Returns the ids of the keys an envelope says signed it; none for what is no envelope."""
    try:
        return tuple(sorted(_read_envelope(envelope).signatures))
    except IntegrityError:
        return ()


def _verified_payload(data: bytes, trust: Trust, purpose: Purpose, root: TrustRoot) -> bytes:
    envelope = _read_envelope(data)
    keys = trust.keys_for(purpose, root)
    try:
        envelope.verify(list(keys), 1)
    except (VerificationError, ValueError) as error:  # ValueError: no key is trusted for this
        signers = sorted(envelope.signatures)
        known = trust.purposes_of(signers)
        raise IntegrityError(
            "the signature does not count",
            where=f"{purpose} statement",
            actual=f"signed by {', '.join(key[:12] for key in signers) or 'nobody'}, "
            f"trusted for {', '.join(known) or 'nothing'}",
            expected=f"an unaltered statement, signed by a key trusted for {purpose} ({root})",
            remedy="do not load the artifact; if the signer is to be trusted, add its key",
        ) from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise IntegrityError(
            "the envelope holds something else",
            actual=envelope.payload_type,
            expected=PAYLOAD_TYPE,
        )
    return envelope.payload


def _read_envelope(data: bytes) -> Envelope:
    try:
        return Envelope.from_dict(read_object(data, where="envelope"))
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        FormatError,
        InvalidRecordError,
    ) as error:
        raise IntegrityError(f"not a DSSE envelope: {error}", where="envelope") from error


def _read_statement(payload: bytes, purpose: Purpose) -> Statement:
    try:
        document = read_object(payload, where=f"{purpose} statement")
        (subject,) = document["subject"]
        kinds = (document["_type"], document["predicateType"])
        predicate = document["predicate"]
        digest = _read_digest_set(subject["digest"])
        name = subject["name"]
    except (KeyError, TypeError, ValueError, InvalidRecordError) as error:
        raise _malformed(purpose, str(error)) from error
    if kinds != (STATEMENT_TYPE, PREDICATES[purpose]) or not isinstance(predicate, dict):
        raise IntegrityError(
            "the statement says something else",
            where=f"{purpose} statement",
            actual=kinds[1],
            expected=PREDICATES[purpose],
        )
    return Statement(digest, purpose, predicate, name)


def _digest_set(digest: Digest) -> dict[str, str]:
    return {digest.scheme: digest.value}


def _read_digest_set(digests: Mapping[str, str]) -> Digest:
    return Digest("sha256", digests["sha256"])


def _timestamp(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise InvalidRecordError("a time without a time zone", actual=moment.isoformat())
    return moment.isoformat(timespec="microseconds")


def _malformed(purpose: Purpose, why: str) -> IntegrityError:
    return IntegrityError(f"the statement is malformed: {why}", where=f"{purpose} statement")
