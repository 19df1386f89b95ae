"""The scrub on every kind of store: every lost or damaged byte is told, and mended from a copy."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry.blobs.interface import BlobStore, blob_name
from registry.blobs.local import LocalBlobStore
from registry.blobs.select import open_store
from registry.copies import Copy, DirectoryCopy, StoreCopy
from registry.digests import Digest
from registry.lifecycle import quarantine, revoke
from registry.publishing import CheckpointPublication
from registry.retention import RetentionPolicy
from registry.scrubbing import Fault, scrub
from registry.sweeping import plan_sweep, sweep
from registry.types import Engine
from tests.factories.registry import CPU, WEIGHTS, Workbench, make_workbench, with_registry
from tests.fakes.damage import overwrite
from tests.fakes.statements import asked


@pytest.fixture(params=["local", "seaweedfs", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "local":
        return open_store((tmp_path / "store").as_uri())
    request.getfixturevalue("s3_credentials")
    server = request.getfixturevalue(f"{request.param}_server")
    return open_store(server.url(f"tests/{uuid.uuid4().hex}"))


@pytest.fixture
def bench(store: BlobStore, tmp_path: Path) -> Iterator[Workbench]:
    made = make_workbench(tmp_path / "bench", store=store)
    yield made
    made.registry.catalogue.close()


def blob(bench: Workbench, engine: Engine, path: str) -> Digest:
    manifest = bench.registry.manifest(engine)
    return next(entry.digest for entry in manifest.files if entry.path == path)


def test_a_whole_store_is_read_and_found_whole(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine)
    bench.record()
    bench.registry.publish_checkpoint(
        CheckpointPublication(bench.publication().directory, WEIGHTS, "w8a16")
    )
    report = scrub(bench.registry)
    assert (report.manifests, report.documents, report.blobs) == (3, 1, 3)
    assert report.size == len(b'{"version": 1}') + len(b"engine") + len(b"scores")
    assert report.findings == []


def test_whoever_listens_hears_of_all_bytes(bench: Workbench) -> None:
    for content in (b"one", b"three"):
        bench.publish(content=content)
    heard: list[tuple[str, int, int]] = []
    report = scrub(bench.registry, progress=lambda *said: heard.append(said))
    assert [total for _, _, total in heard] == [report.size] * report.blobs
    assert [done for _, done, _ in heard] == sorted({done for _, done, _ in heard})
    assert heard[-1][1] == report.size


def test_the_catalogue_is_asked_once_however_much_it_has(bench: Workbench) -> None:
    costs = set()
    for number in range(1, 4):
        content = f"engine {number}"
        bench.judge(bench.publish(content=content.encode()), more={"about": content})
        with asked() as statements:
            report = scrub(bench.registry)
        assert (report.manifests, report.documents) == (number, number)
        costs.add(len(statements))
    assert len(costs) == 1


def test_what_is_lost_or_damaged_is_told_with_all_who_need_it(bench: Workbench) -> None:
    one, two = bench.publish(content=b"one"), bench.publish(content=b"two")
    shared, lost = blob(bench, one, "config.json"), blob(bench, two, "graphs/prefill.pt2")
    overwrite(bench.registry.store, blob_name(shared), b'{"version": 2}')
    bench.registry.store.remove(lost)
    found = {one.digest: (one.fault, one.users) for one in scrub(bench.registry).wrong}
    assert found == {
        shared: (
            Fault.DAMAGED,
            (f"engine {two.digest.short}: config.json", f"engine {one.digest.short}: config.json"),
        ),
        lost: (Fault.MISSING, (f"engine {two.digest.short}: graphs/prefill.pt2",)),
    }


def test_a_revocation_that_the_catalogue_lost_is_recorded_again(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    bench.judge(engine)
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    restored = make_workbench(tmp_path / "restored", store=bench.registry.store).registry
    restored = replace(restored, trust=bench.registry.trust)
    with restored.catalogue.edit() as draft:
        draft.add_engine(engine)
    assert restored.gate(engine.digest, CPU).rule == "never-judged"
    assert [scrub(restored).revocations for _ in range(2)] == [1, 0]
    assert restored.gate(engine.digest, CPU).rule == "revoked"
    restored.catalogue.close()


@pytest.fixture(params=["another store", "its directory", "a fetched copy"])
def copy(request: pytest.FixtureRequest, bench: Workbench, tmp_path: Path) -> Copy:
    """A good copy of everything that is published by then."""
    engine = bench.publish()
    if request.param == "a fetched copy":
        bench.registry.fetch_engine(engine.digest, tmp_path / "copies" / "engine")
        return DirectoryCopy(tmp_path / "copies")
    mirror = replace(bench.registry, store=LocalBlobStore(tmp_path / "mirror"))
    mirror.publish_engine(bench.publication())
    if request.param == "another store":
        return StoreCopy(mirror.store)
    return DirectoryCopy(tmp_path / "mirror")


def test_everything_is_mended_from_a_good_copy(
    bench: Workbench, copy: Copy, tmp_path: Path
) -> None:
    (engine,) = bench.registry.engines()
    overwrite(bench.registry.store, blob_name(blob(bench, engine, "config.json")), b"evil")
    bench.registry.store.remove(blob(bench, engine, "graphs/prefill.pt2"))
    overwrite(bench.registry.store, f"{engine.path}/manifest.json", b"{}")
    report = scrub(bench.registry, copy=copy)
    assert [(one.fault, one.mended) for one in report.findings] == [
        (Fault.DAMAGED, True), *[(one.fault, True) for one in report.findings[1:]],
    ]  # fmt: skip
    assert len(report.findings) == 3
    assert scrub(bench.registry).findings == []
    bench.registry.fetch_engine(engine.digest, tmp_path / "out")


def test_a_copy_that_is_damaged_too_mends_nothing(
    bench: Workbench, copy: Copy, tmp_path: Path
) -> None:
    (engine,) = bench.registry.engines()
    bad = blob(bench, engine, "graphs/prefill.pt2")
    for path in [*(tmp_path / "copies").rglob("*.pt2"), *(tmp_path / "mirror").rglob(bad.value)]:
        path.chmod(0o644)
        path.write_bytes(b"EnginE")
    overwrite(bench.registry.store, blob_name(bad), b"damage")
    report = scrub(bench.registry, copy=copy)
    assert [(one.digest, one.mended) for one in report.wrong] == [(bad, False)]
    assert bench.registry.store.is_damaged(bad)


def test_evidence_of_a_verdict_is_read_too(bench: Workbench, tmp_path: Path) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine)
    mirror = replace(bench.registry, store=LocalBlobStore(tmp_path / "mirror"))
    bench.registry.record_verdict(engine.digest, document, envelope)
    verdict = mirror.record_verdict(engine.digest, document, envelope)
    bench.registry.store.remove_document(verdict.path)
    (found,) = scrub(bench.registry).findings
    assert (found.fault, found.name) == (Fault.MISSING, verdict.path)
    assert scrub(bench.registry, copy=StoreCopy(mirror.store)).wrong == []
    assert scrub(bench.registry).findings == []


def test_a_directory_that_holds_nothing_of_it_mends_nothing(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    bench.registry.store.remove(blob(bench, engine, "config.json"))
    bench.registry.store.remove_document(f"{engine.path}/manifest.json")
    (tmp_path / "empty").mkdir()
    shutil.copy(__file__, tmp_path / "empty")
    (tmp_path / "empty" / "link").symlink_to("/etc/passwd")
    report = scrub(bench.registry, copy=DirectoryCopy(tmp_path / "empty"))
    assert [(one.fault, one.mended) for one in report.findings] == [(Fault.MISSING, False)]


def test_what_a_sweep_removed_meanwhile_is_not_lost(bench: Workbench) -> None:
    swept, kept = bench.publish(content=b"one"), bench.publish(content=b"two")
    lost = blob(bench, kept, "graphs/prefill.pt2")
    bench.registry.store.remove(lost)
    policy = RetentionPolicy(grace=timedelta(days=-1))
    plan = plan_sweep(bench.registry, policy)

    @dataclass
    class Sweeping:
        """A store beside which a sweep ends before the scrub has read the first manifest."""

        store: BlobStore
        done: bool = False

        def __getattr__(self, name: str) -> object:
            return getattr(self.store, name)

        def get_document(self, name: str) -> bytes:
            if not self.done and name == f"{swept.path}/manifest.json":
                self.done = True
                assert sweep(bench.registry, plan).engines == [swept.digest]
            return self.store.get_document(name)

    found = scrub(with_registry(bench, store=Sweeping(bench.registry.store)).registry)
    assert [(one.digest, one.users) for one in found.wrong] == [
        (lost, (f"engine {kept.digest.short}: graphs/prefill.pt2",))
    ]


def test_a_statement_that_the_store_lost_is_put_back_from_its_row(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine)
    bench.end(bench.waive(engine, "never-judged"))
    quarantine(bench.registry, engine, "odd answers")
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    registry = bench.registry
    names = [
        *(one for one in registry.store.list_documents("statements/") if "verdicts/" not in one),
        *registry.store.list_documents(f"{engine.path}/attestations/"),
    ]
    said = {one: registry.store.get_document(one) for one in names if one.endswith(".dsse.json")}
    kinds = {one.rpartition("/")[2].rpartition("-")[0] for one in said}
    assert kinds == {
        "build",
        "quarantine",
        "revocation",
        "summary",
        "verdict",
        "waiver",
        "waiver-end",
    }
    damaged, *lost = said
    overwrite(registry.store, damaged, b"{}")
    for one in lost:
        registry.store.remove_document(one)
    report = scrub(registry)
    assert {one.name: one.fault for one in report.findings} == {
        damaged: Fault.DAMAGED, **dict.fromkeys(lost, Fault.MISSING),
    }  # fmt: skip
    assert report.wrong == []
    assert {one: registry.store.get_document(one) for one in said} == said
    assert scrub(registry).findings == []


def test_what_was_found_beside_an_engine_is_not_said_by_its_row(bench: Workbench) -> None:
    engine = bench.publish()
    junk = f"statements/{engine.digest.value}/quarantine-0123456789ab.dsse.json"
    bench.registry.store.put_document(junk, b"no envelope")
    scrub(bench.registry)
    bench.registry.store.remove_document(junk)
    assert scrub(bench.registry).findings == []
