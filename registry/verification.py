"""Holds what the catalogue says of an engine or a verdict against what was signed.

Everything that believes a row asks here first: planning, the gate, fetching, listing. A row is
believed only as far as the envelope beside it says the same.

Example:
    verify_engine(engine, trust)
    verify_verdict(engine, verdict, trust)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from registry.attestations import (
    Statement,
    read_claim,
    verify,
    verify_build,
    verify_reference,
)
from registry.digests import digest_bytes
from registry.envelopes import signers_of
from registry.errors import IntegrityError, WithdrawnError
from registry.keys import Layer
from registry.summaries import verify_summary
from registry.trust import Purpose, Trust
from registry.types import Engine, EngineNames, Reference, Verdict, Waiver
from registry.waivers import Waivable, verify_waiver


@dataclass(frozen=True)
class Signature:
    """Who signed a statement, and why it does not count, if it does not."""

    purpose: Purpose
    signers: tuple[str, ...]
    """Ids of the keys that signed, as the envelope names them."""

    fault: str | None
    """None for a statement of a trusted key that says what the catalogue says."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the signature as a JSON object."""
        return {
            "purpose": str(self.purpose),
            "signers": list(self.signers),
            "valid": self.fault is None,
            "fault": self.fault,
        }


def build_parameters(names: EngineNames, weights: object) -> dict[str, Any]:
    """Returns what a builder's statement says an engine is, besides its key."""
    return {**asdict(names), "weights": str(weights)}


def verify_engine(engine: Engine, trust: Trust) -> Statement:
    """Returns the build statement of a recorded engine.

    Raises IntegrityError unless a trusted builder signed these bytes, this key and these names.
    """
    statement = verify_build(
        engine.provenance.encode(), trust, engine.key,
        subject=engine.digest, simulated=engine.simulated,
    )  # fmt: skip
    signed = parameters_of(statement)
    recorded = build_parameters(engine.names, engine.model)
    if missing := sorted(recorded.keys() - signed.keys()):
        raise IntegrityError(
            f"the builder did not sign what the engine is: {', '.join(missing)}",
            where=f"build statement of engine {engine.digest.short}",
            remedy="it was built by an older version: build it again in a home of its own",
        )
    wrong = sorted(name for name, value in recorded.items() if signed[name] != value)
    if wrong:
        raise _differs(
            f"engine {engine.digest.short}",
            {name: recorded[name] for name in wrong},
            {name: signed[name] for name in wrong},
        )
    _check_layers(engine, statement)
    return statement


def _check_layers(engine: Engine, statement: Statement) -> None:
    """Raises IntegrityError unless the layers that no digest covers are those that were signed.

    Statements from before the info layer was signed say nothing of it.
    """
    given = statement.predicate["buildDefinition"]["internalParameters"]
    key = engine.key.as_dict()
    signed = {Layer.SOFT: given.get("soft", {}), Layer.INFO: given.get("info", key[Layer.INFO])}
    wrong = [layer for layer, value in signed.items() if key[layer] != value]
    if wrong:
        raise _differs(
            f"engine {engine.digest.short}",
            {layer: key[layer] for layer in wrong},
            {layer: signed[layer] for layer in wrong},
        )


def verify_recorded_reference(reference: Reference, trust: Trust) -> Statement:
    """Returns the statement of a recorded reference; raises IntegrityError."""
    return verify_reference(
        reference.provenance.encode(), trust, reference.key,
        subject=reference.digest, simulated=reference.simulated,
    )  # fmt: skip


def verify_recorded(artifact: Engine | Reference, trust: Trust) -> Statement:
    """Returns the statement of a recorded engine or reference; raises IntegrityError."""
    if isinstance(artifact, Engine):
        return verify_engine(artifact, trust)
    return verify_recorded_reference(artifact, trust)


def is_withdrawn(artifact: Engine | Reference, trust: Trust) -> bool:
    """Says whether the signer of a recorded artifact is not trusted any more for what it signed.

    Raises IntegrityError for every other reason not to believe it: those are nobody's decision.
    """
    try:
        verify_recorded(artifact, trust)
    except WithdrawnError:
        return True
    return False


def verify_verdict(engine: Engine, verdict: Verdict, trust: Trust) -> None:
    """Raises IntegrityError unless a trusted validator signed exactly this verdict."""
    envelope = verdict.envelope.encode()
    statement = verify(
        envelope, trust, Purpose.VERDICT, subject=engine.digest, simulated=engine.simulated
    )
    claim = read_claim(statement)
    signed = {
        "digest": digest_bytes(envelope),
        "result": claim.result,
        "fidelity": claim.fidelity,
        "quality": claim.quality,
        "summary": claim.summary,
        "environment": claim.environment,
        "document": claim.document,
        "issued_at": claim.issued_at,
    }
    wrong = [name for name, value in signed.items() if getattr(verdict, name) != value]
    if wrong:
        raise _differs(
            f"verdict {verdict.digest.short}",
            {name: getattr(verdict, name) for name in wrong},
            {name: signed[name] for name in wrong},
        )


def parameters_of(statement: Statement) -> Mapping[str, Any]:
    """Returns what a build statement says was asked for, and what became of it."""
    definition = statement.predicate.get("buildDefinition")
    given = definition.get("externalParameters") if isinstance(definition, Mapping) else None
    return given if isinstance(given, Mapping) else {}


def build_signature(engine: Engine, trust: Trust) -> Signature:
    """Says who signed an engine's build and whether it counts; raises nothing."""
    return _signature(
        Purpose.BUILD, engine.provenance.encode(), lambda: verify_engine(engine, trust)
    )


def verdict_signature(engine: Engine, verdict: Verdict, trust: Trust) -> Signature:
    """Says who signed a verdict and whether it counts; raises nothing."""
    return _signature(
        Purpose.VERDICT, verdict.envelope.encode(), lambda: verify_verdict(engine, verdict, trust)
    )


def summary_signature(engine: Engine, verdict: Verdict, trust: Trust) -> Signature | None:
    """Says who signed the summary of a verdict; None for a verdict without one."""
    if verdict.vsa is None:
        return None
    vsa = verdict.vsa.encode()
    return _signature(Purpose.VERDICT, vsa, lambda: verify_summary(engine, verdict, vsa, trust))


def waiver_signature(engine: Waivable, waiver: Waiver, trust: Trust) -> Signature:
    """Says who signed a waiver and whether it counts; raises nothing."""
    return _signature(
        Purpose.WAIVER, waiver.envelope.encode(), lambda: verify_waiver(engine, waiver, trust)
    )


def _signature(purpose: Purpose, envelope: bytes, check: Callable[[], object]) -> Signature:
    try:
        check()
    except IntegrityError as error:
        return Signature(purpose, signers_of(envelope), str(error))
    return Signature(purpose, signers_of(envelope), None)


def _differs(
    where: str, recorded: Mapping[str, object], signed: Mapping[str, object]
) -> IntegrityError:
    return IntegrityError(
        "what the catalogue says is not what was signed",
        where=where,
        actual=_listed(recorded),
        expected=_listed(signed),
        remedy="do not use it; find out who changed the catalogue, and restore it",
    )


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
