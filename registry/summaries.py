"""The verification summary of a verdict: what other tools read instead of our test result.

A SLSA verification summary (VSA) about the engine's manifest, signed by the validator beside the
test result that has the details. It decides nothing here: the gate believes the test result.
"""

from __future__ import annotations

from collections.abc import Iterable

from registry.attestations import (
    PREDICATES,
    SUMMARY_TYPE,
    Statement,
    VerdictClaim,
    digest_set,
    malformed,
    read_digest_set,
    timestamp,
    verify,
)
from registry.digests import Digest, digest_bytes
from registry.errors import IntegrityError, InvalidRecordError
from registry.layout import attestation_name, statement_name
from registry.trust import Purpose, Trust
from registry.types import Engine, Result, Verdict

QUALIFIED = "ENGINEKEEPER_QUALIFIED"
"""The level a passing engine is verified for; SLSA leaves names like this to the verifier."""


def summary(engine: Engine, verdict: bytes, claim: VerdictClaim, policy: Digest) -> Statement:
    """States in SLSA's words what a verdict's envelope says of an engine, by which policy."""
    passed = claim.result is Result.PASS
    build, said = digest_bytes(engine.provenance.encode()), digest_bytes(verdict)
    inputs = {
        attestation_name(engine.path, Purpose.BUILD, build): build,
        statement_name(engine.digest, Purpose.VERDICT, said): said,
    }
    predicate = {
        "verifier": {"id": "urn:enginekeeper:validator"},
        "timeVerified": timestamp(claim.issued_at),
        "resourceUri": f"urn:enginekeeper:engine:{engine.digest}",
        "policy": {"uri": "urn:enginekeeper:acceptance", "digest": digest_set(policy)},
        "inputAttestations": [
            {"uri": name, "digest": digest_set(digest)} for name, digest in inputs.items()
        ],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": [QUALIFIED] if passed else ["FAILED"],
        "slsaVersion": "1.0",
        # ours: SLSA knows no inconclusive, and no environment
        "result": str(claim.result),
        "environment": claim.environment.as_dict(),
        "simulated": claim.simulated,
    }
    return Statement(engine.digest, Purpose.VERDICT, predicate, predicate_type=SUMMARY_TYPE)


def verify_summary(engine: Engine, verdict: Verdict, envelope: bytes, trust: Trust) -> Statement:
    """Returns the summary of a verdict.

    Raises IntegrityError unless a trusted validator signed it, of this engine and this verdict.
    """
    statement = verify(
        envelope, trust, Purpose.VERDICT, subject=engine.digest, simulated=engine.simulated,
        predicate_type=SUMMARY_TYPE,
    )  # fmt: skip
    predicate = statement.predicate
    try:
        inputs = {read_digest_set(one["digest"]) for one in predicate["inputAttestations"]}
        said = (predicate["verificationResult"], predicate["result"], predicate["environment"])
    except (KeyError, TypeError, InvalidRecordError) as error:
        raise malformed(statement.purpose, str(error)) from error
    passed = "PASSED" if verdict.result is Result.PASS else "FAILED"
    if verdict.digest not in inputs or said != (
        passed, str(verdict.result), verdict.environment.as_dict(),
    ):  # fmt: skip
        raise IntegrityError(
            "the summary is not that of the verdict",
            where=f"summary of verdict {verdict.digest.short}",
            actual=f"{said[0]} ({said[1]})",
            expected=f"{passed} ({verdict.result}), of {PREDICATES[Purpose.VERDICT]}",
        )
    return statement


def summary_among(
    envelopes: Iterable[bytes], engine: Engine, verdict: Verdict, trust: Trust
) -> str | None:
    """Returns the summary of a verdict; None where none verifies: it decides nothing."""
    for envelope in envelopes:
        try:
            verify_summary(engine, verdict, envelope, trust)
        except IntegrityError:
            continue
        return envelope.decode()
    return None
