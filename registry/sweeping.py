"""The sweep (`ek gc`): removes what nothing reaches, in an order that never leaves a broken row.

Rules:

- rows go first, in one unit of work; then the documents, the manifest before the others; then the
  blobs that no manifest names. Who is killed on the way leaves bytes without a row, never a row
  without its bytes;
- a blob is live as long as any manifest in the store names it, of a row or not; if a manifest of a
  row is lost or changed nothing is swept, since nobody can tell what it named;
- nothing younger than the grace period is swept, by the clock of the store;
- rows, documents and blobs are removed while nobody can make an artifact count
  (`Draft.lock_for_sweep`), and what counts is looked up again then. A publisher looks once more for
  its blobs while no sweep can begin, in the unit of work that adds its row, and stores again what
  is gone. So of a publish and a sweep of the same blob one comes first, and the other sees it;
- what is signed of an engine (verdicts with their documents, waivers, revocations) is never swept:
  it counts again when the same bytes are published again (`registry.statements`). What lies of it
  in the engine's folder is copied to where it is looked for then, before the row goes;
- artifacts that the catalogue does not know are left alone unless asked for: the catalogue may be
  the wrong one, or a publish crashed.

Example:
    plan = plan_sweep(registry, RetentionPolicy())
    report = sweep(registry, plan)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from registry import layout
from registry.blobs.interface import BLOB_ROOT, BlobStore, Stored, blob_of
from registry.digests import Digest
from registry.documents import read_object
from registry.errors import ConflictError, InvalidRecordError, RecordNotFoundError
from registry.manifests import Manifest
from registry.queries import View
from registry.retention import Kind, Marked, RetentionPolicy, mark
from registry.service import Registry
from registry.statements import gather
from registry.transfer import load_manifest
from registry.trust import Purpose
from registry.types import Holding

_FOLDERS = ("engines", "checkpoints", "references", layout.TIMING)
_BATCH = 100
"""Blobs, or folders, that are removed while publishers wait: some seconds at most."""
_ROWS = 1000
"""Rows that are removed in one unit of work: each begins with a look at the whole catalogue."""
_READERS = 8
_ARTIFACT = re.compile(r"(.*/[0-9a-f]{12})/.+")
_STAYS = re.compile(rf".*/(attestations/(?!{Purpose.BUILD}-|{Purpose.REFERENCE}-)|verdicts/).+")
"""What stores from before have of an engine's statements in its folder."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Orphan:
    """Documents of an artifact that no row names: a publish that crashed, or another catalogue."""

    folder: str
    size: int
    """Bytes of its documents."""
    age: timedelta
    """Since the youngest of them was written."""


@dataclass(frozen=True)
class _Seen:
    """The latest rows of the catalogue that were looked at."""

    engine: int = 0
    checkpoint: int = 0
    reference: int = 0
    timing: int = 0

    def later(self, view: View) -> tuple[list[Holding], _Seen]:
        """Returns what was recorded since, and what was seen then."""
        engines = view.engine_holdings(after=self.engine)
        checkpoints = view.checkpoint_holdings(after=self.checkpoint)
        references = view.reference_holdings(after=self.reference)
        timing = view.timing.holdings(after=self.timing)
        seen = _Seen(
            max((one.row for one in engines), default=self.engine),
            max((one.row for one in checkpoints), default=self.checkpoint),
            max((one.row for one in references), default=self.reference),
            max((one.row for one in timing), default=self.timing),
        )
        return [*engines, *checkpoints, *references, *timing], seen


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would remove, and what it would leave."""

    policy: RetentionPolicy
    keep: frozenset[Digest]
    marked: tuple[Marked, ...]
    """Every engine, checkpoint and timing cache with the reasons to keep it."""
    orphans: tuple[Orphan, ...]
    """What would be removed of artifacts without a row."""
    unknown: tuple[Orphan, ...]
    """What would be left of them: too young, or nobody asked for it."""
    blobs: tuple[Stored, ...]
    """What would be removed."""
    live: frozenset[Digest]
    """Blobs that a manifest names, and that stay."""
    counted: frozenset[Digest] = field(repr=False)
    """Artifacts whose manifests went into `live`."""

    @property
    def condemned(self) -> list[Marked]:
        """The engines, then the checkpoints, then the timing caches that nothing reaches."""
        return [one for one in self.marked if not one.reasons]

    @property
    def size(self) -> int:
        """Bytes that would be free."""
        return sum(one.size for one in self.blobs)


@dataclass
class SweepReport:
    """What a sweep removed."""

    engines: list[Digest] = field(default_factory=list)
    checkpoints: list[Digest] = field(default_factory=list)
    timing_caches: list[Digest] = field(default_factory=list)
    documents: int = 0
    blobs: int = 0
    size: int = 0
    """Bytes of the blobs."""

    def add(self, removed: Marked) -> None:
        """Counts an artifact whose row was removed."""
        groups = {
            Kind.ENGINE: self.engines,
            Kind.CHECKPOINT: self.checkpoints,
            Kind.TIMING_CACHE: self.timing_caches,
        }
        groups[removed.kind].append(removed.holding.digest)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as a JSON object."""
        return {
            "engines": [str(one) for one in self.engines],
            "checkpoints": [str(one) for one in self.checkpoints],
            "timing_caches": [str(one) for one in self.timing_caches],
            "documents": self.documents,
            "blobs": self.blobs,
            "bytes": self.size,
        }


def plan_sweep(
    registry: Registry,
    policy: RetentionPolicy,
    *,
    keep: Collection[Digest] = (),
    orphans: bool = False,
) -> SweepPlan:
    """Returns what a sweep would remove; changes nothing.

    Raises IntegrityError when the manifest of anything that stays is lost or changed.
    """
    store = registry.store
    with registry.catalogue.read() as view:
        marked = mark(view, policy, registry.clock(), keep)
        rows, _ = _Seen().later(view)
    condemned = {one.holding.digest for one in marked if not one.reasons}
    stay = [one for one in rows if one.digest not in condemned]
    found = _orphans(store, {one.path for one in rows})
    swept = [one for one in found if orphans and one.age > policy.grace]
    unknown = [one for one in found if one not in swept]
    live = _named_by(store, stay) | _named_by_unknown(store, unknown)
    blobs = [one for one in store.stored(BLOB_ROOT) if _is_garbage(one, live, policy)]
    return SweepPlan(
        policy, frozenset(keep), tuple(marked), tuple(swept), tuple(unknown),
        tuple(sorted(blobs, key=lambda one: one.name)), frozenset(live),
        frozenset(one.digest for one in stay),
    )  # fmt: skip


def sweep(registry: Registry, plan: SweepPlan) -> SweepReport:
    """Removes what was planned, except what is reached by now."""
    report = SweepReport()
    gather(registry.store)
    removed = [
        one
        for batch in _batches(plan.condemned, _ROWS)
        for one in _remove_rows(registry, plan, batch)
    ]
    for one in removed:
        report.add(one)
    folders = [one.holding.path for one in removed] + [one.folder for one in plan.orphans]
    for some in _batches(folders):
        report.documents += _remove_documents(registry, some)
    live = _live_now(registry, plan)
    for blobs in _batches(plan.blobs):
        for blob in _remove_blobs(registry, blobs, live):
            report.blobs += 1
            report.size += blob.size
    return report


def _remove_rows(registry: Registry, plan: SweepPlan, batch: Sequence[Marked]) -> list[Marked]:
    """Removes the rows of a batch that nothing reaches at this moment; all of them or none."""
    wanted = {one.holding.digest for one in batch}
    with registry.catalogue.edit(actor=registry.actor) as draft:
        draft.lock_for_sweep()
        _require_checked(draft)
        now = mark(draft, plan.policy, registry.clock(), plan.keep)
        doomed = [one for one in now if one.holding.digest in wanted and not one.reasons]
        for one in doomed:
            digest = one.holding.digest
            match one.kind:
                case Kind.ENGINE:
                    draft.remove_engine(digest)
                case Kind.CHECKPOINT:
                    draft.remove_checkpoint(digest)
                case Kind.TIMING_CACHE:
                    draft.timing.remove(digest)
            draft.note(f"{one.kind} sweep", digest, {"path": one.holding.path})
    return doomed


def _require_checked(view: View) -> None:
    """Raises ConflictError for a catalogue that was restored and may not know what is in use."""
    if unchecked := view.unchecked():
        raise ConflictError(
            "the catalogue was restored, and may lack what keeps engines from being swept",
            actual=f"restored at {max(unchecked).restored_at.isoformat(timespec='seconds')}",
            expected="that what lies signed beside every engine was taken in since",
            remedy="enginekeeper store scrub, and give every node a heartbeat; then again",
        )


def _remove_documents(registry: Registry, folders: Sequence[str]) -> int:
    """Removes the documents in folders that belong to no row (any more); returns how many."""
    removed = 0
    store = registry.store
    with registry.catalogue.edit(actor=registry.actor) as draft:
        draft.lock_for_sweep()
        taken = draft.paths_taken(folders)
        for folder in folders:
            if folder in taken:  # published again meanwhile
                continue
            names = [one for one in store.list_documents(f"{folder}/") if not _stays(one)]
            for name in sorted(names, key=lambda one: not one.endswith(f"/{layout.MANIFEST}")):
                store.remove_document(name)
                removed += 1
    return removed


@dataclass
class _Live:
    """Blobs that must stay; grows by what is recorded while blobs are removed."""

    named: frozenset[Digest]
    seen: _Seen

    def catch_up(self, view: View, store: BlobStore) -> None:
        late, self.seen = self.seen.later(view)
        self.named |= _named_by(store, late)


def _live_now(registry: Registry, plan: SweepPlan) -> _Live:
    """Returns what must stay by now: also what was recorded or found in use since the plan.

    Rows are numbered before they are committed. Under the lock none is on its way, so that from
    here on whatever is new has a higher number.
    """
    with registry.catalogue.edit() as draft:
        draft.lock_for_sweep()
        rows, seen = _Seen().later(draft)
        late = [one for one in rows if one.digest not in plan.counted]
        return _Live(plan.live | _named_by(registry.store, late), seen)


def _remove_blobs(registry: Registry, batch: Sequence[Stored], live: _Live) -> list[Stored]:
    """Removes the blobs of a batch that no row's manifest names at this moment."""
    store = registry.store
    with registry.catalogue.edit(actor=registry.actor) as draft:
        draft.lock_for_sweep()
        live.catch_up(draft, store)
        removed = []
        for blob in batch:
            digest = blob_of(blob.name)
            if digest is not None and digest not in live.named:
                store.remove(digest)
                removed.append(blob)
        if removed:
            size = sum(one.size for one in removed)
            draft.note("blob sweep", store.url, {"blobs": len(removed), "bytes": size})
    return removed


def _is_garbage(blob: Stored, live: set[Digest], policy: RetentionPolicy) -> bool:
    digest = blob_of(blob.name)
    return digest is not None and digest not in live and blob.age > policy.grace


def _orphans(store: BlobStore, taken: set[str]) -> list[Orphan]:
    """Returns what lies in the store of artifacts that no row names."""
    sizes: defaultdict[str, int] = defaultdict(int)
    ages: dict[str, timedelta] = {}
    for root in _FOLDERS:
        for one in store.stored(root):
            match = _ARTIFACT.fullmatch(one.name)
            if match is None or match[1] in taken or _stays(one.name):
                continue
            sizes[match[1]] += one.size
            ages[match[1]] = min(one.age, ages.get(match[1], one.age))
    return [Orphan(folder, sizes[folder], ages[folder]) for folder in sorted(sizes)]


def _named_by(store: BlobStore, holdings: Iterable[Holding]) -> set[Digest]:
    """Returns the blobs that the manifests of rows name; raises IntegrityError without one."""

    def read(one: Holding) -> Manifest:
        return load_manifest(store, one.path, one.digest)

    with ThreadPoolExecutor(_READERS) as pool:
        manifests = pool.map(read, holdings)
        return {entry.digest for manifest in manifests for entry in manifest.files}


def _named_by_unknown(store: BlobStore, orphans: Iterable[Orphan]) -> set[Digest]:
    """Returns the blobs that manifests without a row name; one that cannot be read names none."""
    named: set[Digest] = set()
    for one in orphans:
        name = f"{one.folder}/{layout.MANIFEST}"
        try:
            manifest = Manifest.from_dict(read_object(store.get_document(name), where=name))
        except (RecordNotFoundError, InvalidRecordError):
            continue
        named |= {entry.digest for entry in manifest.files}
    return named


def _batches(items: Sequence[Item], size: int = _BATCH) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _stays(document: str) -> bool:
    return _STAYS.fullmatch(document) is not None
