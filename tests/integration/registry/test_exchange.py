"""Snapshots and bundles over a real S3 server and PostgreSQL, with publishers that race."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry.blobs.interface import BlobStore
from registry.blobs.select import open_store
from registry.bundles import directory_checks, unpack, write_bundle
from registry.exchange import evidence_of, import_bundle, recorded_checks
from registry.freshness import SnapshotReader
from registry.seen import Memory
from registry.snapshots import Snapshot
from tests.factories.registry import CPU, Workbench, make_workbench, with_registry
from tests.fakes.servers import S3Server

RACERS = 5


@pytest.fixture
def store(seaweedfs_server: S3Server, s3_credentials: None) -> BlobStore:
    assert s3_credentials is None
    return open_store(seaweedfs_server.url(uuid.uuid4().hex))


@pytest.fixture
def bench(tmp_path: Path, store: BlobStore, postgresql_url: str) -> Iterator[Workbench]:
    made = make_workbench(tmp_path / "first", url=postgresql_url, store=store)
    trust = replace(made.signers.trust, snapshot_required=True)
    reader = SnapshotReader(Memory(tmp_path / "seen.json"))
    yield with_registry(made, trust=trust, snapshots=reader)
    made.registry.catalogue.close()


def publish(bench: Workbench, memory: Path, hours: int) -> Snapshot:
    registry = bench.registry
    return SnapshotReader(Memory(memory)).publish(
        registry.store, registry.trust, registry.state, timedelta(days=30, hours=hours),
        (bench.signers.keeper,),
    )  # fmt: skip


def test_publishers_that_race_leave_one_snapshot_of_each_version(
    bench: Workbench, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(RACERS) as pool:
        made = list(
            pool.map(lambda n: publish(bench, tmp_path / f"seen-{n}.json", n), range(RACERS))
        )
    assert sorted(one.version for one in made) == list(range(1, RACERS + 1))
    fresh = bench.registry.freshness()
    assert fresh is not None
    assert (fresh.fault, fresh.snapshot) == (None, max(made, key=lambda one: one.version))


def test_a_bundle_goes_from_s3_to_a_disk_and_back(bench: Workbench, tmp_path: Path) -> None:
    engine = bench.publish(content=b"weights" * 400_000)
    bench.judge(engine)
    bench.waive(engine, "verdict-failed")
    publish(bench, tmp_path / "seen.json", 0)
    assert bench.registry.gate(engine.digest, CPU).rule == "qualified"
    assert all(one.fault is None for one in recorded_checks(bench.registry, engine))
    file = tmp_path / "engine.bundle"
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), file)
    unpack(file, bench.signers.trust, tmp_path / "out")
    found = directory_checks(tmp_path / "out", bench.signers.trust)
    assert all(one.fault is None for one in found)
    other = make_workbench(tmp_path / "other")
    registry = replace(other.registry, trust=bench.signers.trust, clock=bench.clock)
    assert import_bundle(registry, file, tmp_path / "scratch").engine.digest == engine.digest
    assert registry.gate(engine.digest, CPU).rule == "qualified"
