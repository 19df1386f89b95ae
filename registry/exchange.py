"""Carries engines between registries: their evidence out, and back in only when it verifies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry import layout
from registry.bundles import FILES, unpack
from registry.digests import digest_bytes
from registry.evidence import Check, Evidence, Judgement, ModelFacts, Permission, checks
from registry.publishing import EnginePublication, later_than, signed_verdict
from registry.service import Registry
from registry.trust import Purpose
from registry.types import Engine


@dataclass(frozen=True)
class Imported:
    """What came of a bundle."""

    engine: Engine
    verdicts: int
    """Recorded now or before."""
    superseded: int
    """Passes that were left out: a later verdict is recorded here."""


def evidence_of(registry: Registry, engine: Engine) -> Evidence:
    """Returns everything that a registry has signed about an engine; raises IntegrityError."""
    model = registry.model(engine.model)
    beside = registry.store.list_documents(
        layout.attestation_prefix(engine.path, Purpose.REVOCATION)
    )
    return Evidence(
        registry.manifest(engine),
        engine.key,
        ModelFacts(model.digest, model.name, model.source, model.architecture),
        engine.names,
        engine.provenance,
        tuple(
            Judgement(registry.verdict_document(one), one.envelope, one.vsa)
            for one in reversed(registry.verdicts(engine.digest))
        ),
        tuple(
            Permission(one.envelope, one.ending)
            for one in reversed(registry.waivers(engine.digest))
        ),
        tuple(registry.store.get_document(name).decode(errors="replace") for name in beside),
    )


def recorded_checks(registry: Registry, engine: Engine) -> Iterator[Check]:
    """Says of a recorded engine what was checked; reads every byte in the store."""
    manifest = registry.manifest(engine)
    registry.require_stored(engine)
    damaged = [one.path for one in manifest.files if registry.store.is_damaged(one.digest)]
    fault = f"damaged in the store: {', '.join(damaged)}" if damaged else None
    detail = f"{len(manifest.files)} files, {manifest.size} bytes in {registry.store.url}"
    yield Check("bytes", fault, (), detail)
    yield from checks(evidence_of(registry, engine), registry.trust)


def import_bundle(registry: Registry, path: Path, scratch: Path) -> Imported:
    """Publishes a bundle's engine; the same bundle again changes nothing.

    Everything in it is verified, by this registry's own trust, before any of it is visible.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="import-", dir=scratch) as place:
        directory = Path(place, "export")
        evidence = unpack(path, registry.trust, directory)
        return _publish(registry, evidence, directory)


def _publish(registry: Registry, evidence: Evidence, directory: Path) -> Imported:
    model, names = evidence.model, evidence.names
    wanted = evidence.engine(registry.clock())
    for envelope in evidence.revocations:  # before the engine: it must not be seen without them
        revocation = envelope.encode()
        name = layout.attestation_name(wanted.path, Purpose.REVOCATION, digest_bytes(revocation))
        registry.store.put_document(name, revocation)
    registry.record_model(
        model.digest, model.name, source=model.source, architecture=model.architecture
    )
    engine = registry.publish_engine(
        EnginePublication(
            directory / FILES,
            evidence.manifest,
            evidence.key,
            evidence.build.encode(),
            model.digest,
            names.recipe,
            names.target,
            names.variant,
        )
    )
    superseded = 0
    for one in evidence.judgements:
        signed, vsa = one.envelope.encode(), None if one.summary is None else one.summary.encode()
        verdict = signed_verdict(engine, one.document, signed, registry.trust, registry.clock())
        if later_than(verdict, registry.verdicts(engine.digest)) is not None:
            superseded += 1
            continue
        registry.record_verdict(engine.digest, one.document, signed, vsa)
    for permission in evidence.permissions:
        waiver = registry.grant_waiver(engine.digest, permission.envelope.encode())
        if permission.ending is not None:
            registry.end_waiver(waiver.digest, permission.ending.encode())
    return Imported(engine, len(evidence.judgements) - superseded, superseded)
