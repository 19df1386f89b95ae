"""Whether an engine in a directory of this node may be started here, now.

Rules:

- every byte is held against the manifest, and the manifest against its builder's signature;
- the registry is asked, since it alone knows of quarantines and of what was said since; where it
  does not answer, the evidence beside the engine decides, and that is said; one that answers and
  does not know the engine starts nothing;
- of an engine that is stored without its weights, what was refitted from it here is started;
- what nobody can tell is not started. What serves already is never looked for and never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.errors import MissingError, UnavailableError
from enginekeeper.fleet.placements import placements
from enginekeeper.fleet.pulls import SNAPSHOT
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.loadable import (
    document_beside,
    document_in,
    loadable,
    no_weights,
    stripped_in,
)
from enginekeeper.orchestration.nodes import ThisNode
from registry.blobs.interface import MAX_DOCUMENT
from registry.blobs.select import open_store
from registry.bundles import FILES, read_directory
from registry.digests import Digest
from registry.errors import (
    IntegrityError,
    InvalidRecordError,
    IrregularFileError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.evidence import EVIDENCE, Evidence, require
from registry.evidence_gate import EvidenceGate, decide_unknown
from registry.gate import GateDecision
from registry.keys import EngineKey
from registry.manifests import Manifest, irregular, verify_directory
from registry.service import Registry

_FILE = "sqlite:///"


@dataclass(frozen=True)
class RunCheck:
    """What came of a check."""

    engine: Digest
    directory: Path
    """Where its files are: for a command that is to load exactly these."""
    decision: GateDecision
    source: str
    """`registry` or `evidence`: who decided."""
    key: EngineKey
    """What it was built from, as its builder signed it."""
    silence: str | None = None
    """Why the registry did not."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the check as a JSON object."""
        return {
            "engine": str(self.engine),
            "directory": str(self.directory),
            "source": self.source,
            "registry_said_nothing": self.silence,
            "decision": self.decision.as_dict(),
        }


def check_run(bench: Bench, directory: Path, *, offline: bool = False) -> RunCheck:
    """Says whether an engine may be started on this node; raises nothing for a closed gate.

    Raises IntegrityError for bytes or statements that are not what was signed, MissingError where
    nothing says which engine it is, UnavailableError where nobody can tell whether it may.
    """
    place = directory.resolve()
    if not place.is_dir():
        raise MissingError("there is no engine", where=str(directory))
    found = _beside(place)
    if found is None:
        return _recorded(bench, place, offline=offline)
    evidence, files, root = found
    verify_directory(evidence.manifest, files)
    node, digest = ThisNode(bench), evidence.manifest.digest
    environment = node.meets(evidence.key)
    silence = "it was not asked" if offline else None
    if silence is None:
        try:
            registry = _reachable(bench)
            known = _if_known(registry, digest, node)
        except (StoreUnavailableError, UnavailableError) as error:
            silence = str(error).splitlines()[0]
        else:
            decision = known or decide_unknown(registry, evidence, environment)
            if decision.is_open:
                files = loadable(root, document_in(registry, decision))
            return RunCheck(digest, files, decision, "registry", evidence.key)
    gate = EvidenceGate(
        bench.trust, node.compatibility, snapshot=_kept_snapshot(root), reader=bench.snapshots,
        store=open_store(bench.settings.store_url).origin,
    )  # fmt: skip
    decision = gate.decide(evidence, environment)
    if decision.is_open:
        files = loadable(root, document_beside(evidence, decision))
    return RunCheck(digest, files, decision, "evidence", evidence.key, silence)


def _if_known(registry: Registry, engine: Digest, node: ThisNode) -> GateDecision | None:
    """Returns what the gate says of an engine; None for one that the registry does not know."""
    try:
        return node.gate(registry.engine(engine))
    except RecordNotFoundError:
        return None


def verified(bench: Bench, directory: Path) -> tuple[Evidence, Path]:
    """Returns the evidence of an engine and where its files are, after both verified.

    Raises MissingError without evidence beside it, IntegrityError where anything is not as it was
    signed. Says nothing about whether it may run.
    """
    place = directory.resolve()
    found = _beside(place) if place.is_dir() else None
    if found is None:
        raise MissingError(
            "there is no engine with its evidence", where=str(directory),
            remedy="enginekeeper pull ENGINE --into DIRECTORY, then name DIRECTORY/current",
        )  # fmt: skip
    evidence, files, _ = found
    verify_directory(evidence.manifest, files)
    require(evidence, bench.trust)
    return evidence, files


def _beside(place: Path) -> tuple[Evidence, Path, Path] | None:
    """Returns the evidence, the files it is about and the directory of both; None without any.

    Raises MissingError where the files are gone, IntegrityError for what is no evidence.
    """
    for root in (place, place.parent):
        if (root / EVIDENCE).is_file() and place in (root, root / FILES):
            if not (root / FILES).is_dir():
                raise MissingError("there is no engine", where=str(root / FILES))
            return _evidence_in(root), root / FILES, root
    return None


def _evidence_in(root: Path) -> Evidence:
    try:
        return read_directory(root)
    except InvalidRecordError as error:
        raise IntegrityError(
            f"the evidence cannot be read: {error.what}", where=str(root / EVIDENCE),
            actual=error.actual, expected=error.expected,
            remedy=error.remedy or "bring it again: enginekeeper pull ENGINE --into DIRECTORY",
        ) from error  # fmt: skip


def _recorded(bench: Bench, place: Path, *, offline: bool) -> RunCheck:
    """Checks an engine of which a record of the node says what it is: the registry must answer."""
    record = next((one for one in placements(bench.settings.home) if one.path == place), None)
    if record is None:
        raise MissingError(
            "nothing says which engine this is", where=str(place),
            expected=f"{EVIDENCE} beside it, or a record that it was fetched here",
            remedy="bring it here with: enginekeeper pull ENGINE --into DIRECTORY",
        )  # fmt: skip
    if offline:
        raise UnavailableError(
            "without the registry nobody can tell whether it may run", where=str(place),
            expected=f"{EVIDENCE} beside it",
            remedy="bring it here with its evidence: enginekeeper pull ENGINE --into DIRECTORY",
        )  # fmt: skip
    registry = _reachable(bench)
    engine = registry.engine(record.engine)
    try:
        found = Manifest.of_directory(
            place, "engine", key=engine.key.digest(), simulated=engine.simulated
        )
    except IrregularFileError as error:
        raise irregular(error) from error
    if found.digest != engine.digest:
        raise IntegrityError(
            "the directory does not hold the engine that was put there",
            where=str(place), actual=found.digest, expected=engine.digest,
            remedy="do not load it; fetch it again to another place",
        )  # fmt: skip
    if stripped_in(place):
        raise no_weights(place)
    decision = ThisNode(bench).gate(engine)
    return RunCheck(engine.digest, place, decision, "registry", engine.key)


def _reachable(bench: Bench) -> Registry:
    """Returns the registry; a node that has none is not given an empty one."""
    url = bench.settings.catalogue_url
    if url.startswith(_FILE) and not Path(url.removeprefix(_FILE)).is_file():
        raise UnavailableError(
            "this node has no registry", where=url,
            remedy="set ENGINEKEEPER_CATALOGUE and ENGINEKEEPER_STORE to the fleet's",
        )  # fmt: skip
    return bench.registry


def _kept_snapshot(root: Path) -> bytes | None:
    """Returns the snapshot that `pull` kept for the engine in a directory, if there is one."""
    try:
        with (root.parent.parent / SNAPSHOT).open("rb") as handle:
            return handle.read(MAX_DOCUMENT + 1)
    except OSError:
        return None
