"""A rehearsal of a move answers as the move would, and keeps nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from registry.blobs.local import LocalBlobStore
from registry.errors import ConflictError, GateClosedError, IntegrityError, InvalidRecordError
from registry.freshness import SnapshotReader
from registry.lifecycle import revoke
from registry.models import StandingRow, WaiverRow
from registry.seen import Memory
from registry.snapshots import SNAPSHOT
from registry.types import Engine, Place
from tests.factories.registry import CPU, START, Workbench, with_registry

PLACE = Place("prod", "smollm2-135m", "cpu")


def proven(bench: Workbench, content: bytes = b"1") -> Engine:
    engine = bench.publish(content=content)
    bench.judge(engine)
    return engine


def put(bench: Workbench, content: bytes) -> Engine:
    engine = proven(bench, content)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    return engine


def written(bench: Workbench) -> object:
    with bench.registry.catalogue.read() as view:
        return (
            view.last_audit_entry(), view.channels(), view.held_engines(),
            [one.ending for one in view.waivers()],
        )  # fmt: skip


def revoked_beside(bench: Workbench, content: bytes = b"1") -> Engine:
    """Revokes an engine, and does to the catalogue what restoring an old backup does."""
    engine = proven(bench, content)
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    with bench.registry.catalogue.edit() as draft:
        draft._session.execute(delete(StandingRow))
    return engine


def waiver_ended_beside(bench: Workbench) -> Engine:
    engine = bench.publish()
    bench.end(bench.waive(engine, "never-judged"))
    with bench.registry.catalogue.edit() as draft:
        draft._session.execute(update(WaiverRow).values(ending=None))
    return engine


def simulated_in_a_real_channel(bench: Workbench) -> Engine:
    put(bench, b"1")
    engine = bench.publish(content=b"2", simulated=True)
    bench.judge(engine)
    return engine


def without_its_bytes(bench: Workbench) -> Engine:
    engine = proven(bench)
    bench.registry.store.remove(bench.registry.manifest(engine).files[0].digest)
    return engine


@dataclass(frozen=True)
class Case:
    arrange: Callable[[Workbench], Engine]
    error: type[Exception]
    channel: str = "prod"


@pytest.mark.parametrize(
    "case",
    [
        Case(revoked_beside, GateClosedError),
        Case(waiver_ended_beside, GateClosedError),
        Case(simulated_in_a_real_channel, ConflictError),
        Case(without_its_bytes, IntegrityError),
        Case(Workbench.publish, GateClosedError),
        Case(proven, InvalidRecordError, channel="../prod"),
    ],
    ids=lambda case: case.arrange.__name__,
)
def test_a_rehearsal_is_refused_as_the_move_is(bench: Workbench, case: Case) -> None:
    engine, registry = case.arrange(bench), bench.registry
    before = written(bench)
    with pytest.raises(case.error) as rehearsed:
        registry.rehearse_channel(case.channel, engine.digest, CPU)
    assert written(bench) == before
    with pytest.raises(case.error) as moved:
        registry.set_channel(case.channel, engine.digest, CPU, actor="anna")
    assert str(rehearsed.value) == str(moved.value)


def test_a_rehearsal_of_what_would_be_done_keeps_nothing(bench: Workbench) -> None:
    engine = proven(bench)
    before = written(bench)
    assert bench.registry.rehearse_channel("prod", engine.digest, CPU).rule == "qualified"
    assert written(bench) == before


def test_what_was_lost_is_kept_though_the_move_is_refused(bench: Workbench) -> None:
    engine = revoked_beside(bench)
    with pytest.raises(GateClosedError):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert set(bench.registry.held_engines()) == {engine.digest}


def test_a_rehearsal_of_a_rollback_is_refused_as_the_rollback_is(bench: Workbench) -> None:
    put(bench, b"1")
    put(bench, b"2")
    put(bench, b"3")
    revoked_beside(bench, b"2")
    before = written(bench)
    with pytest.raises(GateClosedError) as rehearsed:
        bench.registry.rehearse_rollback(PLACE)
    choices = [one.rule for one in bench.registry.rollback_choices(PLACE)]
    assert (written(bench), choices) == (before, ["revoked", "qualified"])
    with pytest.raises(GateClosedError) as moved:
        bench.registry.roll_back(PLACE, actor="anna")
    assert str(rehearsed.value) == str(moved.value)
    assert "--to" in str(moved.value)


@dataclass
class Asked:
    """Counts the reads of the snapshot, and fails where one holds up those who write."""

    catalogue: Path
    store: LocalBlobStore
    reads: int = field(default=0)

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def get_document(self, name: str) -> bytes:
        if name == SNAPSHOT:
            self.reads += 1
            with closing(sqlite3.connect(self.catalogue, timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")
        return self.store.get_document(name)


def test_the_snapshot_is_read_once_and_holds_up_nobody(bench: Workbench, tmp_path: Path) -> None:
    trust = replace(bench.signers.trust, snapshot_required=True, clock=lambda: START)
    reader = SnapshotReader(Memory(tmp_path / "seen.json"))
    store = bench.registry.store
    assert isinstance(store, LocalBlobStore)
    asked = Asked(Path(bench.registry.catalogue.url.removeprefix("sqlite:///")), store)
    first, _, _ = put(bench, b"1"), put(bench, b"2"), put(bench, b"3")
    reader.publish(store, trust, bench.registry.state, timedelta(days=1), (bench.signers.keeper,))
    strict = with_registry(bench, trust=trust, snapshots=reader, store=asked)
    strict.registry.roll_back(PLACE, actor="anna", to=first.digest)
    strict.registry.rollback_choices(PLACE)
    strict.registry.resolve("prod", PLACE.model, CPU)
    strict.registry.set_channel("canary", first.digest, CPU, actor="anna")
    assert asked.reads == 4
