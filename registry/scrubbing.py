"""The scrub: reads everything that the catalogue names and the store keeps, and mends it.

Rules:

- every manifest of a row is held against the row, every blob that a manifest names is read once,
  whoever shares it, and so is every verdict document;
- nothing is put back but bytes with the digest that was asked for: a copy is never trusted;
- what stays wrong is told with those who need it, but for what a sweep removed meanwhile;
- what is recorded as signed of an engine (`registry.restating`) is put back from its row;
- what stores from before have of an engine in folders that are not its own is copied beside it;
- what lies signed beside an engine (a revocation, the end of a waiver, a verdict) and that the
  catalogue lost is recorded again; a catalogue that was restored is checked by that.

Example:
    report = scrub(registry, copy=StoreCopy(open_store("s3://mirror/engines")))
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from registry import layout
from registry.beside import anything_beside
from registry.blobs.interface import Progress, blob_name
from registry.copies import Copy
from registry.digests import Digest, digest_bytes
from registry.errors import (
    IntegrityError,
    RecordNotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from registry.manifests import FileEntry, Manifest
from registry.restating import Restated, recorded_statements, restate
from registry.service import Registry
from registry.statements import document_places, gather, inherit, statements_of
from registry.timing.types import MANIFEST_KIND
from registry.transfer import put_back
from registry.types import Engine, Restoration, VerdictDocument


class Fault(StrEnum):
    """What is wrong with something that the store should hold."""

    MISSING = "missing"
    DAMAGED = "damaged"
    REFUSED = "refused"
    """What lies beside an engine could not be taken in; why is told with its users."""


@dataclass(frozen=True)
class Finding:
    """One thing that the store lost or damaged."""

    fault: Fault
    name: str
    """Where it lies in the store."""
    digest: Digest
    users: tuple[str, ...]
    """Who needs it: `engine 0123456789ab: graphs/prefill.pt2`."""
    mended: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Returns the finding as a JSON object."""
        return {
            "fault": str(self.fault),
            "name": self.name,
            "digest": str(self.digest),
            "users": list(self.users),
            "mended": self.mended,
        }


@dataclass
class ScrubReport:
    """What was read, and what was wrong with it."""

    manifests: int = 0
    documents: int = 0
    blobs: int = 0
    size: int = 0
    """Bytes of the blobs that were read."""
    revocations: int = 0
    """How many the catalogue had lost and has again."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def wrong(self) -> list[Finding]:
        """What is still wrong."""
        return [one for one in self.findings if not one.mended]

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as a JSON object."""
        return {
            "manifests": self.manifests,
            "documents": self.documents,
            "blobs": self.blobs,
            "bytes": self.size,
            "revocations": self.revocations,
            "findings": [one.as_dict() for one in self.findings],
        }


@dataclass(frozen=True)
class _Artifact:
    kind: str
    digest: Digest
    path: str
    key: Digest | None
    simulated: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.digest.short}"


def scrub(
    registry: Registry, *, copy: Copy | None = None, progress: Progress | None = None
) -> ScrubReport:
    """Reads everything that is recorded, and puts back from a copy what is lost or damaged.

    Progress, where given, hears of the bytes of blobs: how many are read, and of how many.
    """
    scrubber, recorded = _Scrubber(registry, copy), _recorded(registry)
    report = scrubber.report
    scrubber.take_in(recorded)  # first, as the rest takes long: who revokes is in a hurry
    needed: dict[Digest, FileEntry] = {}
    users: defaultdict[Digest, list[str]] = defaultdict(list)
    for artifact in recorded.artifacts:
        report.manifests += 1
        for entry in scrubber.files_of(artifact):
            needed[entry.digest] = entry
            users[entry.digest].append(f"{artifact}: {entry.path}")
    engines = {one.digest: one for one in recorded.engines}
    for one in recorded.documents:
        report.documents += 1
        user = f"verdict {one.verdict.short} on engine {one.engine.short}"
        scrubber.check_document(one.path, one.digest, user, engines.get(one.engine))
    done, total = 0, sum(entry.size for entry in needed.values())
    for digest, entry in sorted(needed.items()):
        scrubber.check_blob(entry, tuple(users[digest]))
        done += entry.size
        if progress is not None:
            progress("scrub", done, total)
    scrubber.forget_swept(recorded)
    return report


@dataclass(frozen=True)
class _Scrubber:
    registry: Registry
    copy: Copy | None
    report: ScrubReport = field(default_factory=ScrubReport)

    def files_of(self, artifact: _Artifact) -> tuple[FileEntry, ...]:
        """Returns the files of a row's manifest, mended if need and copy be; none if it is lost."""
        name = f"{artifact.path}/{layout.MANIFEST}"
        data, fault = self._read(name, artifact.digest)
        if fault is not None and self.copy is not None:
            data = self.copy.manifest(
                artifact.path, artifact.digest, kind=artifact.kind, key=artifact.key,
                simulated=artifact.simulated,
            )  # fmt: skip
        self._settle(fault, name, artifact.digest, str(artifact), data)
        if data is None:
            return ()
        return Manifest.from_bytes(data, expected=artifact.digest).files

    def take_in(self, recorded: _Recorded) -> None:
        """Records what lies beside each engine and was lost, and puts there what is recorded.

        What stops one engine stops no other.

        Unless all could be looked at, a catalogue that was restored stays one that is not checked.
        """
        store, verdicts = self.registry.store, defaultdict[Digest, list[Digest]](list)
        for document in recorded.documents:
            verdicts[document.engine].append(document.verdict)
        gathered = gather(store, but={one.path for one in recorded.engines})
        for engine, said in recorded_statements(self.registry.catalogue, recorded.engines):
            try:
                if engine.digest.short in gathered:
                    inherit(store, engine.digest)
                beside = statements_of(store, engine)
                for lost in restate(beside, engine, said):
                    self.report.findings.append(_restated(engine, lost))
                if anything_beside(beside, verdicts[engine.digest]):
                    self.report.revocations += self.registry.take_in_revocations(engine)
            except StoreUnavailableError:
                raise
            except RegistryError as error:
                name, user = layout.statement_folder(engine.digest), f"engine {engine.digest.short}"
                why = error.what if error.where is None else f"{error.where}: {error.what}"
                found = Finding(Fault.REFUSED, name, engine.digest, (f"{user}: {why}",))
                self.report.findings.append(found)
        if not self.report.wrong:
            self.registry.mark_checked(recorded.restorations)

    def forget_swept(self, recorded: _Recorded) -> None:
        """Takes back what is missing of what a sweep removed meanwhile: its rows went first."""
        if not self.report.wrong:
            return
        now = {str(one) for one in _recorded(self.registry).artifacts}
        gone = {str(one) for one in recorded.artifacts} - now
        findings = [
            replace(one, users=tuple(it for it in one.users if it.partition(": ")[0] not in gone))
            for one in self.report.findings
        ]
        self.report.findings[:] = [one for one in findings if one.users or one.mended]

    def check_document(self, name: str, digest: Digest, user: str, engine: Engine | None) -> None:
        """Holds a verdict's document against its digest; one may lie in its engine's folder."""
        data, fault = self._read(name, digest)
        if fault is not None and engine is not None:
            places = document_places(engine, digest)
            data = next((one for place in places if (one := self._read(place, digest)[0])), None)
        if fault is not None and data is None and self.copy is not None:
            data = self.copy.document(name, digest)
        self._settle(fault, name, digest, user, data)

    def check_blob(self, entry: FileEntry, users: tuple[str, ...]) -> None:
        """Reads a blob."""
        fault = self._fault_of_blob(entry.digest)
        if fault is not Fault.MISSING:
            self.report.blobs += 1
            self.report.size += entry.size
        if fault is not None:
            mended = self._put_back(entry)
            name = blob_name(entry.digest)
            self.report.findings.append(Finding(fault, name, entry.digest, users, mended=mended))

    def _put_back(self, entry: FileEntry) -> bool:
        if self.copy is None:
            return False
        with TemporaryDirectory(prefix="enginekeeper-scrub-") as scratch:
            good = self.copy.blob(entry, Path(scratch))
            if good is not None:
                put_back(self.registry.store, good, entry.digest)
            return good is not None

    def _settle(
        self, fault: Fault | None, name: str, digest: Digest, user: str, data: bytes | None
    ) -> None:
        """Puts a document back, if there is a good one, and notes what was wrong."""
        if fault is None:
            return
        if data is not None:
            self.registry.store.put_document(name, data, if_absent=False)
        self.report.findings.append(Finding(fault, name, digest, (user,), mended=data is not None))

    def _read(self, name: str, digest: Digest) -> tuple[bytes | None, Fault | None]:
        """Returns a document if it is the right one, or what is wrong with it."""
        try:
            data = self.registry.store.get_document(name)
        except RecordNotFoundError:
            return None, Fault.MISSING
        except IntegrityError:  # longer than any that is written
            return None, Fault.DAMAGED
        return (data, None) if digest_bytes(data) == digest else (None, Fault.DAMAGED)

    def _fault_of_blob(self, digest: Digest) -> Fault | None:
        store = self.registry.store
        if not store.exists(digest):
            return Fault.MISSING
        try:
            return Fault.DAMAGED if store.is_damaged(digest) else None
        except RecordNotFoundError:  # gone between the two
            return Fault.MISSING


def _restated(engine: Engine, lost: Restated) -> Finding:
    fault = Fault.DAMAGED if lost.damaged else Fault.MISSING
    user = f"engine {engine.digest.short}: {lost.kind} statement"
    return Finding(fault, lost.name, lost.digest, (user,), mended=True)


@dataclass(frozen=True)
class _Recorded:
    """What the catalogue names, at one moment."""

    engines: list[Engine]
    artifacts: list[_Artifact]
    documents: list[VerdictDocument]
    restorations: frozenset[Restoration]


def _recorded(registry: Registry) -> _Recorded:
    with registry.catalogue.read() as view:
        restorations = view.unchecked()  # the ones of this catalogue, and of no later one
        engines, documents = view.engines(), view.verdict_documents()
        checkpoints, references = view.checkpoints(), view.references()
        timing = view.timing.caches()
    return _Recorded(
        engines,
        [
            *(
                _Artifact("engine", one.digest, one.path, one.key.digest(), one.simulated)
                for one in engines
            ),
            *(
                _Artifact("checkpoint", one.digest, one.path, None, one.simulated)
                for one in checkpoints
            ),
            *(
                _Artifact("reference", one.digest, one.path, one.key, one.simulated)
                for one in references
            ),
            *(
                _Artifact(MANIFEST_KIND, one.digest, one.path, one.key.digest(), one.simulated)
                for one in timing
            ),
        ],
        documents,
        restorations,
    )
