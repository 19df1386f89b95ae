"""Brings an engine to this node: verified, qualified here, beside the running one, then switched.

Rules:

- the gate of this node is asked first; what it does not let in is not downloaded. It is asked again
  when all bytes are here, which may be an hour later: what it closed since is not switched to;
- the new engine lies whole and verified beside the current one before anything is switched;
- a process that loaded the old engine keeps its files: what runs, or was current before, stays;
- an engine that is stored without its weights gets them here, by this node's toolchain, before it
  is switched to; what comes out must be what was judged;
- the caches of a bundle are restored beside it where they are this node's (`warm_caches`);
- evidence and snapshot are kept beside the engine, so that `run-check` needs no registry.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper.errors import InputError
from enginekeeper.fleet.processes import ProcessTable
from enginekeeper.fleet.pulls import SNAPSHOT, PullDirectory, PullState, remember_pull
from enginekeeper.fleet.runs import live_pid, run_records
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.loadable import (
    document_in,
    judged_bytes,
    loadable,
    refit_beside,
    refitted_place,
    stripped_in,
)
from enginekeeper.orchestration.nodes import ThisNode
from enginekeeper.orchestration.placing import forget, record
from enginekeeper.orchestration.refitting import STRIPPED, WHOLE_BYTES
from enginekeeper.orchestration.run_check import RunCheck, check_run
from enginekeeper.orchestration.warm_caches import WarmCaches, caches_place, warm_caches
from registry.bundles import FILES, renew_evidence, write_directory
from registry.disks import full_disk_said
from registry.errors import (
    DiskFullError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.evidence import Evidence
from registry.exchange import evidence_of
from registry.files import locked, write_whole
from registry.gate import GateDecision
from registry.manifests import verify_directory
from registry.names import check_component
from registry.snapshots import SNAPSHOT as SIGNED_SNAPSHOT
from registry.types import Engine

_progress = logging.getLogger("enginekeeper.progress")
_SPARE = 256 * 1024 * 1024
"""Bytes that are left free: logs and caches of what serves are on the same disk."""


@dataclass(frozen=True)
class Wanted:
    """What is to be pulled, and where to."""

    engine: Engine
    decision: GateDecision
    into: PullDirectory
    channel: str | None = None


@dataclass(frozen=True)
class Pulled:
    """What came of it."""

    state: PullState
    check: RunCheck
    """What `run-check` says of it without the registry."""
    removed: tuple[str, ...] = ()
    """Engines that were neither current, nor before, nor running."""
    caches: WarmCaches | None = None
    """What became of the caches of a bundle; None for what has none."""

    def as_dict(self) -> dict[str, Any]:
        """Returns it as a JSON object."""
        return {
            **asdict(self.state),
            "engine": str(self.check.engine),
            "directory": str(self.check.directory),
            "offline": self.check.decision.as_dict(),
            "removed": list(self.removed),
            "caches": None if self.caches is None else self.caches.as_dict(),
        }


def wanted(bench: Bench, name: str, channel: str | None, into: Path) -> Wanted:
    """Returns what a model's channel, or an engine's id, means on this node.

    Raises the gate's error where it is not open.
    """
    node, directory = ThisNode(bench), PullDirectory(into.absolute())
    if channel is None:
        engine = bench.registry.engine(name)
        decision = node.gate(engine)
    else:
        check_component(channel, where="channel")
        found = node.resolve(check_component(name, where="model"), channel)
        engine, decision = found.engine, found.decision
    directory.require_model(engine.model_name)
    decision.require_open(remedy="nothing was pulled; what serves goes on")
    return Wanted(engine, decision, directory, channel)


def bytes_missing(bench: Bench, wish: Wanted) -> int:
    """Returns how many bytes must still come; what an interrupted pull left counts as there.

    Of an engine that is stored without its weights, also how many it gets by them.
    """
    place = wish.into.engines / wish.engine.digest.short
    info = wish.engine.key.info
    with_weights = int(info[WHOLE_BYTES]) if info.get(STRIPPED) else 0
    weights = 0 if refitted_place(place).is_dir() else with_weights
    if place.is_dir():
        return weights
    draft = place.with_name(f".{place.name}.exporting")
    there = sum(one.stat().st_size for one in draft.rglob("*") if one.is_file())
    return weights + max(0, bench.registry.manifest(wish.engine).size - there)


def pull(bench: Bench, wish: Wanted) -> Pulled:
    """Brings an engine here and makes it the current one; again goes on where it ended."""
    registry, engine, into = bench.registry, wish.engine, wish.into
    registry.verify_engine(engine)
    with _alone(into.root):
        into.current_name()  # refuses a directory that is somebody else's
        into.require_model(engine.model_name)  # nobody else pulls now
        _require_room(into.root, bytes_missing(bench, wish))
        place = into.engines / engine.digest.short
        _bring(bench, evidence_of(registry, engine), place)
        renew_evidence(place, evidence_of(registry, engine))  # what was said since, too
        _keep_snapshot(bench, into.root)
        _put_weights_in(bench, wish, place)
        _require_still_open(bench, wish)
        check = check_run(bench, place, offline=True)
        caches = caches_for_start(bench, check, place)
        record(bench, engine.digest, place / FILES)
        state = into.switch(place.name, model=engine.model_name, channel=wish.channel)
        if wish.channel is not None:
            remember_pull(bench.settings.home, engine.model_name, wish.channel, into.root)
        kept = {state.current, state.previous}
        return Pulled(state, check, tuple(_remove_others(bench, into, kept)), caches)


def roll_back(bench: Bench, into: Path) -> Pulled:
    """Makes the engine before the current one again, if it may run on this node."""
    directory = PullDirectory(into.absolute())
    with _alone(directory.root):
        state = directory.way_back()
        check = check_run(bench, directory.engines / str(state.previous))
        check.decision.require_open(remedy="the current engine stays as it is")
        channel = state.channel_of(state.previous)
        place = directory.engines / str(state.previous)
        caches = caches_for_start(bench, check, place)
        made = directory.switch(str(state.previous), model=state.model, channel=channel)
        return Pulled(made, check, caches=caches)


def caches_for_start(bench: Bench, check: RunCheck, place: Path) -> WarmCaches | None:
    """Restores the caches of a bundle that was checked; None for what has none.

    The copies of a bundle that somebody runs stay.
    """
    place, busy = place.resolve(), _running(bench)
    kept = tuple(caches_place(place).glob("*")) if busy is None or place / FILES in busy else ()
    return warm_caches(bench, check.key, place, place / FILES, kept=kept)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Lets one process at a time pull into a directory."""
    with full_disk_said(root):
        root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".lock"):
        yield


def _bring(bench: Bench, evidence: Evidence, place: Path) -> None:
    """Writes an engine with its evidence, unless it is there and whole.

    Damaged files are put aside, whole, until good ones are there: who has them open keeps them.
    """
    aside = place.with_name(f".{place.name}.damaged")
    if place.is_dir():
        try:
            verify_directory(evidence.manifest, place / FILES)
        except (IntegrityError, InvalidRecordError) as error:
            _progress.info("%s: %s; it is brought anew", place, error.what)
            shutil.rmtree(aside, ignore_errors=True)  # of a pull that was interrupted at its end
            place.rename(aside)
    if not place.is_dir():
        write_directory(bench.registry.store, evidence, place)
    shutil.rmtree(aside, ignore_errors=True)


def _put_weights_in(bench: Bench, wish: Wanted, place: Path) -> None:
    """Refits a stripped engine; one that becomes what nobody judged does not stay here."""
    if not stripped_in(place / FILES):
        return
    judged = judged_bytes(document_in(bench.registry, wish.decision))
    try:
        refit_beside(bench, wish.engine, place, judged)
    except IntegrityError:
        _remove_unused(bench, wish.into)
        raise


def _require_still_open(bench: Bench, wish: Wanted) -> None:
    """Asks the gate again; an engine that it closed during the download does not stay here.

    By another verdict it may be open for other refitted bytes: that is asked again, too.
    """
    engine, into = wish.engine, wish.into
    decision = ThisNode(bench).gate(engine)
    if not decision.is_open:
        _remove_unused(bench, into)
    decision.require_open(remedy="it was closed during the download; what was current stays so")
    loadable(into.engines / engine.digest.short, document_in(bench.registry, decision))


def _remove_unused(bench: Bench, into: PullDirectory) -> None:
    """Removes what is neither current nor before nor runs: what serves is never touched."""
    state = into.state_if_readable()
    kept = {into.current_name(), None if state is None else state.previous}
    for name in _remove_others(bench, into, kept):
        _progress.info("engine %s was removed", name)


def _require_room(root: Path, missing: int) -> None:
    free = shutil.disk_usage(root).free
    if missing and free < missing + _SPARE:
        raise DiskFullError(
            "there is not enough room for the engine", where=str(root),
            actual=f"{free / 1e9:.1f} GB free",
            expected=f"{missing / 1e9:.1f} GB, and {_SPARE / 1e9:.1f} GB to spare",
            remedy="free some space and pull again; nothing was written",
        )  # fmt: skip


def _keep_snapshot(bench: Bench, root: Path) -> None:
    """Keeps the registry's snapshot for starts without it, where there is one that counts."""
    store = bench.registry.store
    try:
        bench.snapshots.snapshot(store, bench.trust)
        data = store.get_document(SIGNED_SNAPSHOT)
    except (RecordNotFoundError, IntegrityError, StoreUnavailableError):
        return  # the gate has said what that means
    with full_disk_said(root):
        write_whole(root / SNAPSHOT, data)


def _remove_others(
    bench: Bench, into: PullDirectory, kept: Collection[str | None]
) -> Iterator[str]:
    """Removes the engines that are neither kept nor run, and the records of where they lie."""
    busy = _running(bench)
    if busy is None:
        _progress.warning("no engine is removed: any may run")
        return
    for place in sorted(into.engines.iterdir()):
        if place.name in kept or place.name.startswith("."):
            continue
        whole = refitted_place(place.resolve())
        if place.resolve() / FILES in busy or whole in busy:
            continue
        with suppress(RecordNotFoundError):  # of a pull that was interrupted there is none
            forget(bench, place / FILES)
        shutil.rmtree(whole, ignore_errors=True)
        shutil.rmtree(caches_place(place.resolve()), ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        yield place.name


def _running(bench: Bench) -> set[Path] | None:
    """Returns where the engines are that run; None, which is said, where nobody can tell."""
    table = ProcessTable()
    try:
        return {
            one.path for one in run_records(bench.settings.home) if live_pid(one, table) is not None
        }
    except InputError as error:
        _progress.warning("%s: %s", error.where, error.what)
        return None
