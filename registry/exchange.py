"""Carries engines between registries: their evidence out, and back in only when it verifies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from registry import layout
from registry.beside import NOTHING_LOST, Lost, find_lost
from registry.bundles import FILES, unpack
from registry.digests import canonical_json
from registry.evidence import Check, Evidence, Judgement, ModelFacts, Permission, checks
from registry.publishing import (
    EnginePublication,
    contradicted,
    later_than,
    signed_verdict,
    signed_waiver,
)
from registry.records import Draft
from registry.service import Registry
from registry.statements import put_statement, statements_of
from registry.trust import Purpose
from registry.types import Engine, Verdict, Waiver


@dataclass(frozen=True)
class Imported:
    """What came of a bundle."""

    engine: Engine
    verdicts: int
    """Recorded now or before."""
    superseded: int
    """Those that were left out: a later verdict that says otherwise is recorded here."""


def evidence_of(registry: Registry, engine: Engine) -> Evidence:
    """Returns everything that a registry has signed about an engine; raises IntegrityError.

    With what lies beside it and a catalogue that was restored lacks: a bundle without its last
    failure would open the gate elsewhere.
    """
    model, lost = registry.model(engine.model), _lost(registry, engine)
    waivers = lost.among_waivers(registry.waivers(engine.digest))
    return Evidence(
        registry.manifest(engine),
        engine.key,
        ModelFacts(model.digest, model.name, model.source, model.architecture),
        engine.names,
        engine.provenance,
        tuple(
            Judgement(registry.verdict_document(one), one.envelope, one.vsa)
            for one in (*reversed(registry.verdicts(engine.digest)), *lost.verdicts)
        ),
        tuple(Permission(one.envelope, one.ending) for one in reversed(waivers)),
        tuple(
            one.decode(errors="replace")
            for one in statements_of(registry.store, engine).envelopes(Purpose.REVOCATION)
        ),
    )


def _lost(registry: Registry, engine: Engine) -> Lost:
    with registry.catalogue.read() as view:
        if not view.unchecked():
            return NOTHING_LOST
        fresh = registry.freshness()
        trust = registry.trust if fresh is None else fresh.trusting(registry.trust)
        return find_lost(view, registry.store, engine, trust, registry.clock())


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

    Everything in it is verified, by this registry's own trust, before any of it is visible, and all
    of it becomes visible at once: who is killed here has imported nothing.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="import-", dir=scratch) as place:
        directory = Path(place, "export")
        evidence = unpack(path, registry.trust, directory)
        return _publish(registry, evidence, directory)


def _publish(registry: Registry, evidence: Evidence, directory: Path) -> Imported:
    model, names = evidence.model, evidence.names
    statements = _Statements.of(evidence, registry)
    statements.put_beside(registry)
    registry.record_model(
        model.digest, model.name, source=model.source, architecture=model.architecture
    )
    superseded: list[Verdict] = []
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
        ),
        also=lambda draft, _engine: superseded.extend(statements.record(draft)),
    )
    return Imported(engine, len(evidence.judgements) - len(superseded), len(superseded))


@dataclass(frozen=True)
class _Statements:
    """What evidence says of its engine, verified: documents first, then rows, all at once."""

    engine: Engine
    evidence: Evidence
    verdicts: tuple[Verdict, ...]
    waivers: tuple[Waiver, ...]

    @classmethod
    def of(cls, evidence: Evidence, registry: Registry) -> _Statements:
        """Returns the statements of evidence; raises IntegrityError for one that does not count."""
        trust, now = registry.trust, registry.clock()
        engine = evidence.engine(now)
        verdicts = (
            replace(
                signed_verdict(engine, one.document, one.envelope.encode(), trust, now),
                vsa=one.summary,
            )
            for one in evidence.judgements
        )
        waivers = (
            replace(signed_waiver(engine, one.envelope.encode(), trust, now), ending=one.ending)
            for one in evidence.permissions
        )
        return cls(engine, evidence, tuple(verdicts), tuple(waivers))

    def put_beside(self, registry: Registry) -> None:
        """Puts every statement where it is looked for; those that stop the engine come first.

        But the verdicts that are not recorded here: what lies there is recorded some day.
        """
        evidence, store = self.evidence, registry.store
        with registry.catalogue.read() as view:
            here = view.verdicts(self.engine.digest)
        judged = [
            (verdict, one)
            for verdict, one in zip(self.verdicts, evidence.judgements, strict=True)
            if contradicted(verdict, here) is None
        ]
        endings = [one.ending for one in evidence.permissions if one.ending is not None]
        summaries = [one.summary for _, one in judged if one.summary is not None]
        for kind, envelopes in (
            (Purpose.REVOCATION, evidence.revocations),
            (layout.WAIVER_END, endings),
            (Purpose.WAIVER, [one.envelope for one in evidence.permissions]),
            (Purpose.VERDICT, [one.envelope for _, one in judged]),
            (layout.SUMMARY, summaries),
        ):
            for envelope in envelopes:
                put_statement(store, self.engine.digest, kind, envelope.encode())
        for verdict, one in judged:
            store.put_document(verdict.path, canonical_json(one.document))

    def record(self, draft: Draft) -> list[Verdict]:
        """Records verdicts, oldest first, and waivers; returns the verdicts left out.

        What a later verdict contradicts that was here before is not recorded after it: it would be
        the latest, and close or open what that one decided. Nor is a pass that a later one of the
        evidence contradicts: its order is anybody's to change.
        """
        superseded, here = [], draft.verdicts(self.engine.digest)
        for verdict in self.verdicts:
            late = later_than(verdict, draft.verdicts(self.engine.digest))
            if late is not None or contradicted(verdict, here) is not None:
                superseded.append(verdict)
                continue
            draft.add_verdict(verdict)
        for waiver in self.waivers:
            draft.add_waiver(waiver)
            if waiver.ending is not None:
                draft.end_waiver(waiver.digest, waiver.ending)
        return superseded
