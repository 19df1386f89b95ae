"""How things get into the registry: blobs → manifest → signature → catalogue row.

Every step may be run again and then does nothing; the row is last, so a crash between any two
steps leaves documents that nobody points to, and the next run goes on from there.

A sweep may take away a blob that was there when the publisher looked (`registry.sweeping`). So the
publisher looks once more while it holds off the sweep, in the unit of work that adds the row, and
stores again what is gone by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from registry import layout
from registry.attestations import read_claim, verify, verify_reference
from registry.blobs.interface import BlobStore
from registry.catalogue import Catalogue
from registry.digests import Digest, canonical_json, digest_bytes
from registry.envelopes import told_by
from registry.errors import ConflictError, IntegrityError, InvalidRecordError
from registry.keys import SIMULATED_BUILDERS, EngineKey
from registry.manifests import Manifest
from registry.queries import View
from registry.records import Draft
from registry.statements import gather_once, inherit, put_statement, statements_of
from registry.summaries import verify_summary
from registry.transfer import is_stored, store_artifact
from registry.trust import Purpose, Trust
from registry.types import Checkpoint, Engine, Reference, Repair, Result, Verdict, Waiver
from registry.verification import is_withdrawn, verify_engine, verify_recorded
from registry.waivers import (
    ending_among,
    require_short,
    verify_ending,
    verify_grant,
)
from registry.writing import UNNAMED

Recorded = TypeVar("Recorded")
Signed = TypeVar("Signed", Engine, Reference)
_ATTEMPTS = 3
"""How often an artifact is stored before we believe that something is wrong: one sweep takes away
at most what it found before it began."""


@dataclass(frozen=True)
class CheckpointPublication:
    """A quantized checkpoint to be published."""

    directory: Path
    model: Digest
    """Digest of the source weights, recorded before."""
    recipe: str
    calibration: Digest | None = None
    repairs: tuple[Repair, ...] = ()
    simulated: bool = False


@dataclass(frozen=True)
class EnginePublication:
    """A built engine to be published, with the builder's signed statement about it."""

    directory: Path
    manifest: Manifest
    """Of the directory, made with the key's digest: what the builder signed."""
    key: EngineKey
    provenance: bytes
    """DSSE envelope of the build statement."""
    model: Digest
    """Digest of the source weights, recorded before."""
    recipe: str
    target: str
    variant: str
    checkpoint: Digest | None = None


@dataclass(frozen=True)
class ReferencePublication:
    """Recorded outputs of a source model to be published, with the signed statement about them."""

    directory: Path
    manifest: Manifest
    """Of the directory; its key is the digest of everything the reference is made from."""
    provenance: bytes
    """DSSE envelope of the reference statement."""
    model: Digest
    """Digest of the source weights, recorded before."""
    suite: Digest
    tokens: Digest
    runtime: str
    dtype: str
    top_k: int


@dataclass(frozen=True)
class Publisher:
    """Publishes into one catalogue and one store, under one trust."""

    catalogue: Catalogue
    store: BlobStore
    trust: Trust
    clock: Callable[[], datetime]
    actor: str = UNNAMED

    def checkpoint(self, publication: CheckpointPublication) -> Checkpoint:
        """Publishes a checkpoint; publishing the same one again returns it."""
        simulated = publication.simulated
        manifest = Manifest.of_directory(publication.directory, "checkpoint", simulated=simulated)
        with self.catalogue.read() as view:
            model = view.model(publication.model)
        folder = layout.checkpoint_path(model.name, publication.recipe, manifest.digest)
        checkpoint = Checkpoint(
            digest=manifest.digest,
            model=model.digest,
            model_name=model.name,
            recipe=publication.recipe,
            calibration=publication.calibration,
            repairs=publication.repairs,
            size=manifest.size,
            path=folder,
            simulated=manifest.simulated,
            recorded_at=self.clock(),
        )

        def store() -> None:
            store_artifact(self.store, publication.directory, manifest, folder)

        return self.record(manifest, folder, store, lambda draft: draft.add_checkpoint(checkpoint))

    def engine(
        self, publication: EnginePublication, also: Callable[[Draft, Engine], object]
    ) -> Engine:
        """Publishes an engine; publishing the same one again returns it.

        One that is recorded with a statement whose signer is not trusted any more gets the new
        statement instead. What `also` records is kept with the engine or not at all. Raises
        IntegrityError unless a trusted builder signed this manifest, key and names.
        """
        manifest, key = publication.manifest, publication.key
        check_manifest(manifest, key)
        with self.catalogue.read() as view:
            model = view.model(publication.model)
            _check_world(view, manifest, publication.checkpoint)
            recorded = view.place_of(manifest.digest)
        names = (model.name, publication.recipe, publication.target)
        folder = recorded or layout.engine_path(*names, key, manifest.digest)
        engine = Engine(
            digest=manifest.digest,
            key=key,
            model=model.digest,
            model_name=model.name,
            recipe=publication.recipe,
            target=publication.target,
            variant=publication.variant,
            checkpoint=publication.checkpoint,
            size=manifest.size,
            path=folder,
            provenance=publication.provenance.decode(),
            simulated=manifest.simulated,
            recorded_at=self.clock(),
        )
        verify_engine(engine, self.trust)
        gather_once(self.store)
        inherit(self.store, engine.digest)

        def store() -> None:
            store_artifact(self.store, publication.directory, manifest, folder)
            # The key is documentation here: what counts is its digest, in the manifest and signed.
            # Its info layer differs between builds of the same bytes; the first one stays.
            self._document_once(f"{folder}/{layout.KEY}", canonical_json(key.as_dict()))
            self.attest(folder, Purpose.BUILD, publication.provenance)

        def record(draft: Draft) -> Engine:
            found = self._believed(draft, draft.add_engine(engine), engine)
            if found.path != folder:  # recorded meanwhile, by somebody with another driver
                self.store.put_document(f"{found.path}/{layout.MANIFEST}", manifest.to_bytes())
            also(draft, found)
            return found

        return self.record(manifest, folder, store, record)

    def reference(self, publication: ReferencePublication) -> Reference:
        """Publishes a reference; publishing the same one again returns it.

        Raises IntegrityError unless a trusted recorder signed this manifest and its key.
        """
        manifest, key = publication.manifest, _reference_key(publication.manifest)
        verify_reference(
            publication.provenance, self.trust, key,
            subject=manifest.digest, simulated=manifest.simulated,
        )  # fmt: skip
        with self.catalogue.read() as view:
            model = view.model(publication.model)
        folder = layout.reference_path(model.name, publication.suite, manifest.digest)
        reference = Reference(
            digest=manifest.digest,
            key=key,
            model=model.digest,
            model_name=model.name,
            suite=publication.suite,
            tokens=publication.tokens,
            runtime=publication.runtime,
            dtype=publication.dtype,
            top_k=publication.top_k,
            size=manifest.size,
            path=folder,
            provenance=publication.provenance.decode(),
            simulated=manifest.simulated,
            recorded_at=self.clock(),
        )

        def store() -> None:
            store_artifact(self.store, publication.directory, manifest, folder)
            self.attest(folder, Purpose.REFERENCE, publication.provenance)

        def record(draft: Draft) -> Reference:
            return self._believed(draft, draft.add_reference(reference), reference)

        return self.record(manifest, folder, store, record)

    def verdict(
        self,
        engine: Engine,
        document: Mapping[str, Any],
        envelope: bytes,
        vsa: bytes | None = None,
    ) -> Verdict:
        """Publishes a signed verdict; the same envelope again returns the verdict it was.

        Raises IntegrityError unless a trusted validator signed this document on this engine.
        """
        verdict = signed_verdict(engine, document, envelope, self.trust, self.clock())
        if vsa is not None:
            verdict = replace(verdict, vsa=vsa.decode())
            verify_summary(engine, verdict, vsa, self.trust)
        self.store.put_document(verdict.path, canonical_json(document))
        put_statement(self.store, engine.digest, Purpose.VERDICT, envelope)
        if vsa is not None:
            put_statement(self.store, engine.digest, layout.SUMMARY, vsa)
        with self.catalogue.edit(actor=self.actor) as draft:
            draft.hold_engine(verdict.engine)
            _check_not_backdated(draft, verdict)
            return draft.add_verdict(verdict)

    def _believed(self, draft: Draft, found: Signed, given: Signed) -> Signed:
        """Returns what is recorded, with a new statement if the old one's signer lost the trust.

        With what the new one says of the key, too, but its digest, which is the same.
        """
        if found.provenance == given.provenance or not is_withdrawn(found, self.trust):
            return found
        renewed = replace(found, provenance=given.provenance, key=given.key)
        verify_recorded(renewed, self.trust)  # under the names that it is recorded by
        draft.renew_provenance(renewed)
        return renewed

    def record(
        self,
        manifest: Manifest,
        folder: str,
        store: Callable[[], None],
        add: Callable[[Draft], Recorded],
    ) -> Recorded:
        """Stores an artifact and adds its row, together with the last look at what is stored."""
        for _ in range(_ATTEMPTS):
            store()
            with self.catalogue.edit(actor=self.actor) as draft:
                draft.hold_sweep()
                if is_stored(self.store, manifest, folder):
                    return add(draft)
        raise ConflictError(
            "what was published is swept away each time",
            where=self.store.url,
            actual=f"gone after each of {_ATTEMPTS} attempts",
            expected=f"the files of {folder}",
            remedy="look for another catalogue's `enginekeeper gc` on this store, and run again",
            transient=True,
        )

    def waiver(self, engine: Engine, envelope: bytes) -> Waiver:
        """Publishes a waiver that approvers signed; the same envelope again returns it.

        One that approvers ended before is recorded as ended, whatever became of its row.
        """
        waiver = signed_waiver(engine, envelope, self.trust, self.clock())
        require_short(waiver, self.trust)
        put_statement(self.store, engine.digest, Purpose.WAIVER, envelope)
        endings = statements_of(self.store, engine).envelopes(layout.WAIVER_END)
        ending = ending_among(endings, waiver, self.trust)
        with self.catalogue.edit(actor=self.actor) as draft:
            recorded = draft.add_waiver(waiver)
            return recorded if ending is None else draft.end_waiver(waiver.digest, ending)

    def waiver_end(self, engine: Engine, waiver: Waiver, envelope: bytes) -> Waiver:
        """Publishes that approvers ended a waiver; an ended one stays as it is."""
        verify_ending(envelope, waiver, self.trust)
        put_statement(self.store, engine.digest, layout.WAIVER_END, envelope)
        with self.catalogue.edit(actor=self.actor) as draft:
            return draft.end_waiver(waiver.digest, envelope.decode())

    def attest(self, folder: str, purpose: str, envelope: bytes) -> None:
        """Stores a signed statement beside an artifact."""
        name = layout.attestation_name(folder, purpose, digest_bytes(envelope))
        self.store.put_document(name, envelope)

    def _document_once(self, name: str, data: bytes) -> None:
        try:
            self.store.put_document(name, data)
        except ConflictError:
            return


def signed_verdict(
    engine: Engine, document: Mapping[str, Any], envelope: bytes, trust: Trust, at: datetime
) -> Verdict:
    """Returns the verdict that an envelope signs.

    Raises IntegrityError unless a trusted validator signed this document on this engine.
    """
    verdict = stated_verdict(engine, envelope, trust, at)
    _check_document(verdict, document, digest_bytes(canonical_json(document)))
    return verdict


def stated_verdict(engine: Engine, envelope: bytes, trust: Trust, at: datetime) -> Verdict:
    """Returns the verdict that an envelope signs, wherever its document is.

    Raises IntegrityError unless a trusted validator signed it of this engine.
    """
    statement = verify(
        envelope, trust, Purpose.VERDICT, subject=engine.digest, simulated=engine.simulated
    )
    claim = read_claim(statement)
    return Verdict(
        digest=digest_bytes(envelope),
        engine=engine.digest,
        environment=claim.environment,
        result=claim.result,
        fidelity=claim.fidelity,
        quality=claim.quality,
        summary=claim.summary,
        document=claim.document,
        path=layout.verdict_name(engine.digest, claim.document),
        envelope=envelope.decode(),
        simulated=engine.simulated,
        issued_at=claim.issued_at,
        recorded_at=at,
    )


def signed_waiver(engine: Engine, envelope: bytes, trust: Trust, at: datetime) -> Waiver:
    """Returns the waiver that an envelope signs; raises IntegrityError."""
    grant, digest = verify_grant(envelope, engine, trust), digest_bytes(envelope)
    return Waiver(
        digest=digest,
        engine=engine.digest,
        rules=grant.rules,
        environment=grant.environment,
        reason=grant.reason,
        granted_by=grant.granted_by,
        issued_at=grant.issued_at,
        expires_at=grant.expires_at,
        path=layout.statement_name(engine.digest, Purpose.WAIVER, digest),
        envelope=envelope.decode(),
        simulated=engine.simulated,
        recorded_at=at,
    )


def later_than(verdict: Verdict, recorded: Sequence[Verdict]) -> Verdict | None:
    """Returns a recorded verdict that a pass must not be recorded after; None if it may.

    An old pass that is recorded late would otherwise open a gate that a newer verdict closed; so
    would a recorded one in another envelope. Two validators who pass an engine at once do not stand
    in each other's way. The recorded ones come newest first.
    """
    if verdict.result is not Result.PASS or verdict.digest in {one.digest for one in recorded}:
        return None
    return contradicted(verdict, recorded) or _since_it_was_said(verdict, recorded)


def _since_it_was_said(verdict: Verdict, recorded: Sequence[Verdict]) -> Verdict | None:
    """Returns what was recorded after the same statement, in another envelope, and is no pass."""
    said, since = told_by(verdict.envelope.encode()), list[Verdict]()
    for one in recorded:
        if told_by(one.envelope.encode()) == said:
            return since[-1] if since else None
        if one.environment == verdict.environment and one.result is not Result.PASS:
            since.append(one)
    return None


def contradicted(verdict: Verdict, recorded: Sequence[Verdict]) -> Verdict | None:
    """Returns a recorded verdict of the same place that says otherwise and was issued later.

    None for one that is recorded itself: it stays what it was.
    """
    if verdict.digest in {one.digest for one in recorded}:
        return None
    there = (one for one in recorded if one.environment == verdict.environment)
    others = (one for one in there if one.result is not verdict.result)
    return next((one for one in others if one.issued_at > verdict.issued_at), None)


def check_manifest(manifest: Manifest, key: EngineKey) -> None:
    """Raises InvalidRecordError unless a manifest is that of an engine of exactly this key."""
    if manifest.kind != "engine" or manifest.key != key.digest():
        raise InvalidRecordError(
            "the manifest is not that of an engine of this key",
            where="manifest",
            actual=f"kind {manifest.kind}, key {manifest.key}",
            expected=f"kind engine, key {key.digest()}",
        )
    if key.hard["builder"] in SIMULATED_BUILDERS and not manifest.simulated:
        raise InvalidRecordError(
            "a simulated builder makes simulated engines",
            where="manifest",
            actual="simulated: false",
        )


def _reference_key(manifest: Manifest) -> Digest:
    if manifest.kind != "reference" or manifest.key is None:
        raise InvalidRecordError(
            "the manifest is not that of a reference",
            where="manifest",
            actual=f"kind {manifest.kind}, key {manifest.key}",
            expected="kind reference, and the digest of what it is made from as its key",
        )
    return manifest.key


def _check_world(view: View, manifest: Manifest, checkpoint: Digest | None) -> None:
    if checkpoint is not None and view.checkpoint(checkpoint).simulated and not manifest.simulated:
        raise InvalidRecordError(
            "an engine made from a simulated checkpoint is simulated",
            where="manifest", actual="simulated: false", expected="simulated: true",
        )  # fmt: skip


def _check_document(claim: Verdict, document: Mapping[str, Any], digest: Digest) -> None:
    said = {
        "result": document.get("result"),
        "fidelity": _line(document, "fidelity"),
        "quality": _line(document, "quality"),
        "summary": str(document.get("summary", "")),
    }
    signed = {name: getattr(claim, name) for name in said}
    if claim.document != digest or said != signed:
        raise IntegrityError(
            "the verdict document is not the one that was signed",
            where="verdict",
            actual=f"{digest}, {said}",
            expected=f"{claim.document}, {signed}",
        )


def _check_not_backdated(view: View, verdict: Verdict) -> None:
    other = later_than(verdict, view.verdicts(verdict.engine))
    if other is not None:
        raise ConflictError(
            "a later verdict on this engine in this environment is recorded already",
            where=f"engine {verdict.engine.short}",
            actual=f"a pass issued at {verdict.issued_at.isoformat()}",
            expected=f"one issued after {max(other.issued_at, verdict.issued_at).isoformat()}: "
            f"verdict {other.digest.short} says otherwise",
            remedy="validate again, and check the clocks of the validators",
        )


def _line(document: Mapping[str, Any], name: str) -> str | None:
    part = document.get(name)
    return str(part["result"]) if isinstance(part, Mapping) and "result" in part else None
