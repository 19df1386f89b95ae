"""Signed statements about an artifact: in-toto statements in DSSE envelopes.

Rules:

- a builder signs SLSA provenance, a recorder of references too, a validator signs an in-toto
  test result, a revoker a revocation (`registry.revocations`); the subject is the manifest's
  digest, so that every byte and the key are covered;
- an envelope counts only if enough keys that are trusted *for that purpose*, under the right
  trust root, signed it; until then its payload is bytes and is not parsed (`registry.envelopes`);
- a statement says when it was signed, and its signers' windows are held against that time;
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

from securesystemslib.signer import Signer

from registry.digests import Digest, canonical_json
from registry.documents import read_object
from registry.envelopes import Asked, require_signers, seal, signed_payload
from registry.environments import Environment, environment_from_dict
from registry.errors import IntegrityError, InvalidRecordError
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.trust import Purpose, Trust, TrustRoot, read_moment
from registry.types import Result

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
BUILD_TYPE = "urn:enginekeeper:build:v1"
REFERENCE_TYPE = "urn:enginekeeper:reference:v1"
BUILD_TYPES: Mapping[str, str] = {"timing-cache": "urn:enginekeeper:timing-cache:v1"}
"""What a builder's key signs besides engines, by the kind of its manifest."""
PREDICATES: Mapping[Purpose, str] = {
    Purpose.BUILD: "https://slsa.dev/provenance/v1",
    Purpose.VERDICT: "https://in-toto.io/attestation/test-result/v0.1",
    Purpose.REFERENCE: "https://slsa.dev/provenance/v1",
    Purpose.WAIVER: "urn:enginekeeper:waiver:v1",
    Purpose.SNAPSHOT: "urn:enginekeeper:snapshot:v1",
    Purpose.REVOCATION: "urn:enginekeeper:revocation:v1",
}
"""What each purpose's key says, if nothing else is asked for."""
HOLD_TYPE, RELEASE_TYPE = "urn:enginekeeper:quarantine:v1", "urn:enginekeeper:release:v1"
"""What a revoker says besides."""
SUMMARY_TYPE = "https://slsa.dev/verification_summary/v1"
_PROVENANCE = frozenset({Purpose.BUILD, Purpose.REFERENCE})
_TIMES = {Purpose.BUILD: "signedAt", Purpose.REFERENCE: "signedAt", Purpose.REVOCATION: "revokedAt"}
"""Where a statement says when it was signed; the others, in `issuedAt`."""
_OTHER_TIMES = {
    SUMMARY_TYPE: "timeVerified", HOLD_TYPE: "issuedAt", RELEASE_TYPE: "issuedAt",
}  # fmt: skip
_RESULTS = {Result.PASS: "PASSED", Result.FAIL: "FAILED", Result.INCONCLUSIVE: "WARNED"}


@dataclass(frozen=True)
class Statement:
    """An in-toto statement about one artifact."""

    subject: Digest
    """The artifact's manifest digest."""
    purpose: Purpose
    predicate: Mapping[str, Any]
    name: str = "manifest.json"
    predicate_type: str = ""
    """That of the purpose, unless said otherwise."""

    def __post_init__(self) -> None:
        if not self.predicate_type:
            object.__setattr__(self, "predicate_type", PREDICATES[self.purpose])

    def to_bytes(self) -> bytes:
        """Returns the payload that is signed."""
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": self.name, "digest": digest_set(self.subject)}],
                "predicateType": self.predicate_type,
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
    signed_at: datetime | None = None
    """When it is signed, if that is not when it was finished."""


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
            "info": key.as_dict()["info"],
            **_signing(record),
        },
    }
    return Statement(manifest.digest, Purpose.BUILD, _provenance(definition, record))


def recording(manifest: Manifest, record: BuildRecord) -> Statement:
    """States that a manifest's files are what a source model said; SLSA provenance v1."""
    definition = {
        "buildType": REFERENCE_TYPE,
        "externalParameters": dict(record.parameters),
        "internalParameters": {
            "keyDigest": str(manifest.key),
            "simulated": manifest.simulated,
            **_signing(record),
        },
    }
    return Statement(manifest.digest, Purpose.REFERENCE, _provenance(definition, record))


def made_under(manifest: Manifest, build_type: str, record: BuildRecord) -> Statement:
    """States that a manifest's files, no engine, came of a build; SLSA provenance v1."""
    definition = {
        "buildType": build_type,
        "externalParameters": dict(record.parameters),
        "internalParameters": {
            "keyDigest": str(manifest.key),
            "simulated": manifest.simulated,
            **_signing(record),
        },
    }
    return Statement(manifest.digest, Purpose.BUILD, _provenance(definition, record))


def test_result(engine: Digest, claim: VerdictClaim) -> Statement:
    """States a verdict on an engine in one environment; in-toto test-result v0.1."""
    configuration = {
        "name": "verdict",
        "digest": digest_set(claim.document),
        "annotations": {
            "environment": claim.environment.as_dict(),
            "issuedAt": timestamp(claim.issued_at),
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


def sign(statement: Statement, *signers: Signer) -> bytes:
    """Returns the DSSE envelope of a statement as JSON, signed by each of the signers."""
    return seal(statement.to_bytes(), *signers)


def verify(
    envelope: bytes, trust: Trust, purpose: Purpose, *, subject: Digest, simulated: bool = False,
    predicate_type: str | None = None,
) -> Statement:  # fmt: skip
    """Returns the statement of an envelope that trusted keys signed; raises IntegrityError."""
    asked = Asked(purpose, TrustRoot.of(simulated=simulated))
    payload, signers = signed_payload(envelope, trust, asked)
    statement = read_statement(payload, purpose, predicate_type or PREDICATES[purpose])
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
    require_signers(signers, trust, asked, signed_at(statement))
    return statement


def verify_build(
    envelope: bytes, trust: Trust, key: EngineKey, *, subject: Digest, simulated: bool
) -> Statement:
    """Returns the build statement of an engine; raises IntegrityError unless it names this key."""
    statement = verify(envelope, trust, Purpose.BUILD, subject=subject, simulated=simulated)
    return _about_key(statement, key.digest())


def verify_made(
    envelope: bytes, trust: Trust, build_type: str, key: Digest, *, subject: Digest, simulated: bool
) -> Statement:
    """Returns a builder's statement about something else than an engine.

    Raises IntegrityError unless it is of this type and names this key.
    """
    statement = verify(envelope, trust, Purpose.BUILD, subject=subject, simulated=simulated)
    said = statement.predicate["buildDefinition"].get("buildType")  # an object: it was read before
    if said != build_type:
        raise IntegrityError(
            "the statement is about another kind of artifact",
            where=f"{statement.purpose} statement",
            actual=said,
            expected=build_type,
        )
    return _about_key(statement, key)


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
    if statement.predicate_type == PREDICATES[Purpose.VERDICT]:
        return read_claim(statement).simulated
    try:
        flag = _notes(statement)["simulated"]
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(statement.purpose, f"no {error}") from error
    if not isinstance(flag, bool):
        raise malformed(statement.purpose, "simulated is not a boolean")
    return flag


def signed_at(statement: Statement) -> datetime:
    """Returns when a statement says it was signed; raises IntegrityError when it does not say."""
    try:
        notes = _notes(statement)
        if statement.purpose in _PROVENANCE and "signedAt" not in notes:
            text = statement.predicate["runDetails"]["metadata"]["finishedOn"]
        else:
            other = _OTHER_TIMES.get(statement.predicate_type)
            text = notes[other or _TIMES.get(statement.purpose, "issuedAt")]
        return read_moment(text)
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(statement.purpose, f"no time of signing ({error})") from error


def _notes(statement: Statement) -> Mapping[str, Any]:
    """Returns the part of a predicate that holds what every statement of ours says."""
    predicate: Any = statement.predicate
    if statement.purpose in _PROVENANCE:
        predicate = predicate["buildDefinition"]["internalParameters"]
    elif statement.predicate_type == PREDICATES[Purpose.VERDICT]:
        (configuration,) = predicate["configuration"]
        predicate = configuration["annotations"]
    if not isinstance(predicate, Mapping):
        raise TypeError(f"{type(predicate).__name__} where an object is expected")
    return predicate


def read_key_digest(statement: Statement) -> Digest:
    """Returns the digest of the key that a statement of provenance names."""
    try:
        text = statement.predicate["buildDefinition"]["internalParameters"]["keyDigest"]
        return Digest.parse(text)
    except (KeyError, TypeError, AttributeError, InvalidRecordError) as error:
        raise malformed(statement.purpose, f"no key digest ({error})") from error


def read_material(statement: Statement, name: str) -> Digest:
    """Returns the digest of a material that a statement of provenance names."""
    try:
        materials = statement.predicate["buildDefinition"]["resolvedDependencies"]
        (found,) = (one["digest"] for one in materials if one["name"] == name)
        return read_digest_set(found)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRecordError) as error:
        raise malformed(statement.purpose, f"no material {name} ({error})") from error


def read_claim(statement: Statement) -> VerdictClaim:
    """Returns what a verdict statement claims; raises IntegrityError when it is malformed."""
    predicate = statement.predicate
    try:
        (configuration,) = predicate["configuration"]
        notes = configuration["annotations"]
        results = {text: result for result, text in _RESULTS.items()}
        if not isinstance(notes["simulated"], bool):
            raise malformed(statement.purpose, "simulated is not a boolean")
        return VerdictClaim(
            result=results[predicate["result"]],
            environment=environment_from_dict(notes["environment"]),
            document=read_digest_set(configuration["digest"]),
            issued_at=read_moment(notes["issuedAt"]),
            simulated=notes["simulated"],
            passed=tuple(predicate.get("passedTests", ())),
            failed=tuple(predicate.get("failedTests", ())),
            warned=tuple(predicate.get("warnedTests", ())),
            fidelity=notes["fidelity"],
            quality=notes["quality"],
            summary=notes["summary"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRecordError) as error:
        raise malformed(statement.purpose, str(error)) from error


def _provenance(definition: Mapping[str, Any], record: BuildRecord) -> dict[str, Any]:
    materials = [
        {"name": name, "digest": digest_set(digest)}
        for name, digest in sorted(record.materials.items())
    ]
    details = {
        "builder": {"id": record.builder},
        "metadata": {
            "invocationId": record.invocation,
            "startedOn": timestamp(record.started_at),
            "finishedOn": timestamp(record.finished_at),
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


def read_statement(payload: bytes, purpose: Purpose, predicate_type: str) -> Statement:
    """Reads a payload whose signature was verified; raises IntegrityError for another statement."""
    try:
        document = read_object(payload, where=f"{purpose} statement")
        (subject,) = document["subject"]
        kinds = (document["_type"], document["predicateType"])
        predicate = document["predicate"]
        digest = read_digest_set(subject["digest"])
        name = subject["name"]
    except (KeyError, TypeError, ValueError, InvalidRecordError) as error:
        raise malformed(purpose, str(error)) from error
    if kinds != (STATEMENT_TYPE, predicate_type) or not isinstance(predicate, dict):
        raise IntegrityError(
            "the statement says something else",
            where=f"{purpose} statement",
            actual=kinds[1],
            expected=predicate_type,
        )
    return Statement(digest, purpose, predicate, name, predicate_type)


def _signing(record: BuildRecord) -> dict[str, str]:
    return {} if record.signed_at is None else {"signedAt": timestamp(record.signed_at)}


def digest_set(digest: Digest) -> dict[str, str]:
    """Returns a digest as in-toto writes it."""
    return {digest.scheme: digest.value}


def read_digest_set(digests: Mapping[str, str]) -> Digest:
    """Returns the SHA-256 of an in-toto digest set."""
    return Digest("sha256", digests["sha256"])


def timestamp(moment: datetime) -> str:
    """Returns a time as it is signed; raises InvalidRecordError for one without a zone."""
    if moment.tzinfo is None:
        raise InvalidRecordError("a time without a time zone", actual=moment.isoformat())
    return moment.isoformat(timespec="microseconds")


def malformed(purpose: Purpose, why: str) -> IntegrityError:
    """Says that a statement whose signature is good cannot be read."""
    return IntegrityError(f"the statement is malformed: {why}", where=f"{purpose} statement")
