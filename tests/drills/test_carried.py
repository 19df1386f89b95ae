"""What is carried from elsewhere: bundles that would write past their place, and old snapshots."""

from __future__ import annotations

import gzip
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.blobs.local import LocalBlobStore
from registry.bundles import write_bundle
from registry.digests import digest_bytes
from registry.errors import IntegrityError, InvalidRecordError
from registry.evidence import EVIDENCE
from registry.exchange import import_bundle
from registry.freshness import SnapshotReader
from registry.lifecycle import revoke
from registry.manifests import FileEntry, Manifest
from registry.publishing import EnginePublication
from registry.seen import Memory
from registry.snapshots import SNAPSHOT, RegistryState, sealed
from registry.types import Engine
from tests.drills.ground import Ground
from tests.drills.ledger import Ledger
from tests.drills.test_forgery import evidence, signed_build
from tests.factories.registry import CPU, START, with_registry
from tests.fakes.bundles import ATTACKS, members_of, packed

WEEK = timedelta(days=7)
_MEMORY = 64 << 20  # bytes that a refusal may take; the largest document is 16 MiB
_HUGE = 1 << 60


def carried(publication: EnginePublication, tmp_path: Path) -> Path:
    """Packs an engine that this registry has not seen."""
    store = LocalBlobStore(tmp_path / "elsewhere")
    for path in publication.directory.rglob("*"):
        if path.is_file():
            store.put_file(path)
    write_bundle(store, evidence(publication), tmp_path / "good.bundle")
    return tmp_path / "good.bundle"


def refused(ground: Ground, bundle: Path, scratch: Path) -> None:
    """Imports a bundle, which must leave nothing, here or beside."""
    scratch.mkdir(exist_ok=True)
    others = sorted(one for one in scratch.parent.rglob("*"))
    with pytest.raises((IntegrityError, InvalidRecordError)):
        import_bundle(ground.registry, bundle, scratch)
    assert sorted(one for one in scratch.parent.rglob("*")) == others


def taken_in(ground: Ground, publication: EnginePublication, bundle: Path, scratch: Path) -> None:
    done = import_bundle(ground.registry, bundle, scratch)
    ground.acknowledged[done.engine.digest] = publication.manifest


def test_no_member_of_a_bundle_is_written_past_its_place(
    local_ground: Ground, ledger: Ledger, tmp_path: Path
) -> None:
    drill = ledger.drill(
        "zip-slip bundle",
        f"{len(ATTACKS)} tars imported: names that climb or are absolute, links, devices, members "
        "twice, more, less, swapped or in another order; then the good one",
    )
    local_ground.live(local_ground.publication())
    publication = local_ground.publication()
    good, scratch = carried(publication, tmp_path), tmp_path / "scratch"
    for name, attack in ATTACKS.items():
        bad = packed(attack(members_of(good)), tmp_path / "bad.bundle")
        refused(local_ground, bad, scratch)
        assert not Path("/etc/cron.d/x").exists()
        drill.ran(local_ground.look(), name)
    taken_in(local_ground, publication, good, scratch)
    drill.ran(local_ground.look(), "the good one")


def promising(good: Path, name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Lets a member say that it is an exbibyte long."""
    out = b""
    for info, data in members_of(good):
        if info.name == name or (name == "blob" and info.name != EVIDENCE):
            info.size, info.type = _HUGE, kind
        out += info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    return out + bytes(tarfile.RECORDSIZE)


def nested(good: Path) -> bytes:
    """Nests the evidence a million deep."""
    (info, _), *others = members_of(good)
    data = b'{"schema":' * 1_000_000
    info.size = len(data)
    packed([(info, data), *others], good.with_name("nested.bundle"))
    return good.with_name("nested.bundle").read_bytes()


BOMBS: dict[str, Callable[[Path], bytes]] = {
    "compressed": lambda good: gzip.compress(good.read_bytes()),
    "256 MiB of zeros, compressed": lambda _: gzip.compress(bytes(256 << 20), 1),
    "evidence of an exbibyte": lambda good: promising(good, EVIDENCE),
    "a blob of an exbibyte": lambda good: promising(good, "blob"),
    "a sparse file of an exbibyte": lambda good: promising(good, "blob", tarfile.GNUTYPE_SPARSE),
    "evidence nested a million deep": nested,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_nothing_swells_that_is_taken_in(
    local_ground: Ground, ledger: Ledger, tmp_path: Path, bomb: str
) -> None:
    drill = ledger.drill(
        "decompression bomb",
        f"{len(BOMBS) + 1} bundles imported: compressed, of members and signed files that say they "
        f"are an exbibyte long, sparse, nested; each within {_MEMORY >> 20} MiB of memory",
    )
    local_ground.live(local_ground.publication())
    publication = local_ground.publication()
    good, bad = carried(publication, tmp_path), tmp_path / "bad.bundle"
    bad.write_bytes(BOMBS[bomb](good))
    tracemalloc.start()
    refused(local_ground, bad, tmp_path / "scratch")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < _MEMORY
    drill.ran(local_ground.look(), bomb)
    taken_in(local_ground, publication, good, tmp_path / "scratch")
    drill.ran(local_ground.look(), f"{bomb}: the good one")


def test_a_signed_manifest_that_promises_an_exbibyte_fills_no_disk(
    local_ground: Ground, ledger: Ledger, tmp_path: Path
) -> None:
    drill = ledger.drill("decompression bomb", "as above")
    local_ground.live(local_ground.publication())
    publication = local_ground.publication()
    entry = FileEntry("huge.bin", _HUGE, digest_bytes(b"huge"))
    manifest = Manifest("engine", (entry,), publication.key.digest())
    unsigned = replace(publication, manifest=manifest)
    signed = signed_build(local_ground.bench.signers.builder, unsigned)
    data = evidence(replace(unsigned, provenance=signed)).to_bytes()
    first, blob = tarfile.TarInfo(EVIDENCE), tarfile.TarInfo(f"blobs/{entry.digest.value}")
    first.size, blob.size = len(data), _HUGE
    bad = tmp_path / "bad.bundle"
    bad.write_bytes(
        first.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        + blob.tobuf(tarfile.GNU_FORMAT) + b"huge"
    )  # fmt: skip
    refused(local_ground, bad, tmp_path / "scratch")
    drill.ran(local_ground.look(), "a signed manifest")


def strict(ground: Ground, memory: Path) -> SnapshotReader:
    """Lets the ground ask for snapshots, as a machine that remembers what it has seen."""
    reader = SnapshotReader(Memory(memory))
    trust = replace(ground.registry.trust, snapshot_required=True)
    ground.bench = with_registry(ground.bench, trust=trust, snapshots=reader)
    return reader


def publish(ground: Ground, reader: SnapshotReader, lifetime: timedelta = WEEK) -> bytes:
    registry = ground.registry
    signers = (ground.bench.signers.keeper,)
    reader.publish(registry.store, registry.trust, registry.state, lifetime, signers)
    return registry.store.get_document(SNAPSHOT)


def set_back(ground: Ground) -> None:
    """Takes every revocation out of the catalogue and from beside the engines, too."""
    with ground.registry.catalogue._engine.begin() as connection:
        connection.execute(text("DELETE FROM standings"))
    store = ground.registry.store
    for name in list(store.list_documents("statements/")):
        if "/revocation-" in name:
            store.remove_document(name)


REPLAYS = ("the one before", "one that has expired", "another of the same version",
           "signed by a stranger", "none at all")  # fmt: skip


def replayed(ground: Ground, old: bytes, version: int, replay: str) -> bytes | None:
    """Returns what lies in the store instead of the snapshot; none for nothing."""
    signers, now = ground.bench.signers, ground.registry.trust.clock()
    empty = RegistryState()
    return {
        "the one before": old,
        "one that has expired": sealed(empty, version + 1, START, now, signers.keeper),
        "another of the same version": sealed(empty, version, now, now + WEEK, signers.keeper),
        "signed by a stranger": sealed(empty, version + 1, now, now + WEEK, signers.validator),
        "none at all": None,
    }[replay]


@pytest.mark.parametrize("replay", REPLAYS)
def test_a_replayed_snapshot_brings_no_revoked_engine_back(
    ground: Ground, ledger: Ledger, tmp_path: Path, replay: str
) -> None:
    drill = ledger.drill(
        "replayed snapshot",
        "after a revocation, catalogue and store set back, and in place of the snapshot: the one "
        "before, an expired one, another of its version, a stranger's, none; then published again",
    )
    reader = strict(ground, tmp_path / "seen.json")
    publish(ground, reader)
    live = ground.live(ground.publication())
    victim = ground.publish(ground.publication())
    ground.bench.judge(victim)
    old = publish(ground, reader)
    assert ground.registry.gate(victim.digest, CPU).is_open
    revoke(ground.registry, victim, "wrong tokens", ground.bench.signers.revoker)
    publish(ground, reader)
    set_back(ground)
    put_snapshot(ground, replayed(ground, old, 3, replay))
    for engine, rule in ((live, "stale-snapshot"), (victim, "revoked")):
        assert ground.registry.gate(engine.digest, CPU).rule == rule
    drill.ran(ground.look(), replay)
    recovered(ground, reader, live, victim)
    drill.ran(ground.look(), f"{replay}, then published again")


def put_snapshot(ground: Ground, data: bytes | None) -> None:
    store = ground.registry.store
    if data is None:
        store.remove_document(SNAPSHOT)
    else:
        store.put_document(SNAPSHOT, data, if_absent=False)


def recovered(ground: Ground, reader: SnapshotReader, live: Engine, victim: Engine) -> None:
    """Publishes over what was replayed, from the machine that has seen the newest.

    Catalogue and store have nothing of the revocation, and it is still there.
    """
    publish(ground, reader)
    assert ground.registry.gate(live.digest, CPU).rule == "qualified"
    assert ground.registry.gate(victim.digest, CPU).rule == "revoked"
