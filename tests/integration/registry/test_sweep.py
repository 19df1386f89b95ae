"""The sweep and the scrub, on every kind of store: nothing that counts is ever taken away.

The clock of a store cannot be set, so the grace period is: none where something is to go, an hour
where it is too young to.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry import sweeping
from registry.blobs.interface import BLOB_ROOT, BlobStore, blob_of
from registry.blobs.select import open_store
from registry.catalogue import open_catalogue
from registry.digests import Digest, digest_bytes
from registry.errors import IntegrityError, RecordNotFoundError
from registry.lifecycle import revoke
from registry.publishing import CheckpointPublication, EnginePublication
from registry.retention import RetentionPolicy
from registry.service import Registry
from registry.sweeping import SweepReport, plan_sweep, sweep
from registry.transfer import load_manifest, require_stored
from registry.types import Engine
from tests.factories.registry import CPU, WEIGHTS, Workbench, make_workbench
from tests.fakes.stores import DyingStore, Killed

NOW = RetentionPolicy(grace=timedelta(days=-1), rollbacks=1)
"""Nothing is young; clocks of servers may be a second apart."""


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


def blobs(store: BlobStore) -> set[Digest]:
    return {digest for one in store.stored(BLOB_ROOT) if (digest := blob_of(one.name)) is not None}


def swept(bench: Workbench, policy: RetentionPolicy = NOW, *, orphans: bool = False) -> SweepReport:
    return sweep(bench.registry, plan_sweep(bench.registry, policy, orphans=orphans))


def check(registry: Registry) -> None:
    """Raises unless every row has its manifest and every blob."""
    for engine in registry.engines():
        registry.require_stored(engine)


def test_a_sweep_takes_what_nothing_reaches_and_leaves_what_is_shared(bench: Workbench) -> None:
    first, second = bench.publish(content=b"one"), bench.publish(content=b"two")
    shared = digest_bytes(b'{"version": 1}')
    report = swept(bench)
    assert report.engines == [first.digest]
    assert (report.blobs, report.size) == (1, 3)
    assert report.documents == 3
    assert blobs(bench.registry.store) == {shared, digest_bytes(b"two")}
    assert list(bench.registry.store.list_documents(first.path)) == []
    assert bench.registry.engines() == [second]
    check(bench.registry)
    assert swept(bench).as_dict() == SweepReport().as_dict()


def test_a_plan_changes_nothing(bench: Workbench) -> None:
    bench.publish(content=b"one")
    bench.publish(content=b"two")
    before = (blobs(bench.registry.store), list(bench.registry.store.list_documents()))
    plan = plan_sweep(bench.registry, NOW)
    assert (len(plan.condemned), plan.size) == (1, 3)
    assert (blobs(bench.registry.store), list(bench.registry.store.list_documents())) == before


def test_blobs_of_a_publish_under_way_are_too_young(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"just uploaded")
    digest = bench.registry.store.put_file(tmp_path / "blob")
    assert swept(bench, replace(NOW, grace=timedelta(hours=1))).blobs == 0
    assert bench.registry.store.exists(digest)
    assert swept(bench).blobs == 1
    assert not bench.registry.store.exists(digest)


def test_what_the_catalogue_does_not_know_stays_unless_asked_for(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    empty = make_workbench(tmp_path / "other", store=bench.registry.store)
    plan = plan_sweep(empty.registry, NOW)
    assert [one.folder for one in plan.unknown] == [engine.path]
    assert swept(empty).as_dict() == SweepReport().as_dict()
    check(bench.registry)
    young = replace(NOW, grace=timedelta(hours=1))
    assert plan_sweep(empty.registry, young, orphans=True).orphans == ()
    assert swept(empty, orphans=True).documents == 3
    assert blobs(bench.registry.store) == set()
    empty.registry.catalogue.close()


def test_nothing_is_swept_while_a_manifest_is_lost(bench: Workbench) -> None:
    bench.publish(content=b"one")
    kept = bench.publish(content=b"two")
    bench.registry.store.remove_document(f"{kept.path}/manifest.json")
    with pytest.raises(IntegrityError, match="the manifest is recorded"):
        plan_sweep(bench.registry, NOW)


def test_a_channels_history_outlives_what_was_swept(bench: Workbench) -> None:
    engines = [bench.publish(content=bytes([number])) for number in range(3)]
    for engine in engines:
        bench.judge(engine)
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert swept(bench).engines == [engines[0].digest]
    moves = bench.registry.channel_history("prod", "smollm2-135m")
    assert [(one.engine, one.previous) for one in moves] == [
        (engines[2].digest, engines[1].digest), (engines[1].digest, engines[0].digest),
        (engines[0].digest, None),
    ]  # fmt: skip
    with pytest.raises(RecordNotFoundError):
        bench.registry.engine(engines[0].digest)


def test_a_revocation_outlives_its_engine(bench: Workbench) -> None:
    engine = bench.publish(content=b"one")
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    assert swept(bench).engines == [engine.digest]
    assert list(bench.registry.store.list_documents(engine.path)) == []
    assert bench.publish(content=b"one").digest == engine.digest
    assert bench.registry.gate(engine.digest, CPU).rule == "revoked"


def test_a_key_goes_with_its_last_engine(bench: Workbench) -> None:
    gone = bench.publish(content=b"one")
    bench.registry.publish_engine(bench.publication(content=b"two", calibration="sha256:1"))
    sweep(bench.registry, plan_sweep(bench.registry, replace(NOW, per_key=0)))
    assert bench.registry.engines() == []
    assert bench.registry.nearest(gone.key) == []
    assert bench.publish(content=b"one").key == gone.key
    check(bench.registry)


def test_a_checkpoint_is_swept_after_its_engines(bench: Workbench) -> None:
    def published(name: bytes) -> Engine:
        directory = bench.publication(content=b"c" + name).directory
        made_from = bench.registry.publish_checkpoint(
            CheckpointPublication(directory, WEIGHTS, "w8a16")
        )
        return bench.registry.publish_engine(
            replace(bench.publication(content=name), checkpoint=made_from.digest)
        )

    old, new = published(b"one"), published(b"two")
    report = swept(bench)
    assert (report.engines, report.checkpoints) == ([old.digest], [old.checkpoint])
    assert new.checkpoint is not None
    made_from = bench.registry.checkpoint(new.checkpoint)
    require_stored(
        bench.registry.store,
        load_manifest(bench.registry.store, made_from.path, new.checkpoint),
    )
    check(bench.registry)


def test_what_was_put_into_a_channel_after_the_plan_stays(bench: Workbench) -> None:
    old, _ = bench.publish(content=b"one"), bench.publish(content=b"two")
    bench.judge(old)
    bench.judge(bench.publish(content=b"three"))
    plan = plan_sweep(bench.registry, NOW)
    assert old.digest in {one.holding.digest for one in plan.condemned}
    bench.registry.set_channel("prod", old.digest, CPU, actor="anna")
    assert old.digest not in sweep(bench.registry, plan).engines
    check(bench.registry)


def test_what_was_published_after_the_plan_keeps_its_blobs(bench: Workbench) -> None:
    bench.publish(content=b"one")
    bench.publish(content=b"two")
    plan = plan_sweep(bench.registry, NOW)
    again = bench.publish(content=b"one", calibration="sha256:1")  # the same blobs, another key
    assert sweep(bench.registry, plan).blobs == 0
    assert again in bench.registry.engines()
    check(bench.registry)


def test_what_was_published_again_between_rows_and_documents_stays(bench: Workbench) -> None:
    old, _ = bench.publish(content=b"one"), bench.publish(content=b"two")
    plan = plan_sweep(bench.registry, NOW)
    sweeping._remove_rows(bench.registry, plan, plan.condemned)
    assert bench.publish(content=b"one").digest == old.digest
    assert sweeping._remove_documents(bench.registry, [old.path]) == 0
    check(bench.registry)


@dataclass
class SweptUnder(DyingStore):
    """A store under which a sweep runs once, right after a publisher wrote a manifest."""

    registry: Registry | None = None
    report: SweepReport | None = None

    def put_document(
        self, name: str, data: bytes, *, if_absent: bool = True, if_match: str | None = None
    ) -> bool:
        created = super().put_document(name, data, if_absent=if_absent, if_match=if_match)
        if name.endswith("/manifest.json") and self.registry is not None:
            registry, self.registry = self.registry, None
            self.report = sweep(registry, plan_sweep(registry, NOW, orphans=True))
        return created


def test_a_sweep_in_the_middle_of_a_publish_loses_nothing(bench: Workbench) -> None:
    under = SweptUnder(bench.registry.store, 0, registry=bench.registry)
    engine = replace(bench.registry, store=under).publish_engine(bench.publication())
    assert under.report is not None
    assert under.report.blobs == 2
    assert bench.registry.engines() == [engine]
    check(bench.registry)


@dataclass
class Dying(DyingStore):
    """A store that kills the sweep at its n-th removal."""

    removals: int = 0

    def remove(self, digest: Digest) -> None:
        self._count()
        super().remove(digest)

    def remove_document(self, name: str) -> None:
        self._count()
        super().remove_document(name)

    def _count(self) -> None:
        self.removals += 1
        if self.removals == self.dies_at:
            raise Killed


@pytest.mark.parametrize("dies_at", range(1, 6))
def test_a_sweep_that_is_killed_leaves_no_row_without_its_bytes(
    bench: Workbench, dies_at: int
) -> None:
    for content in (b"one", b"two", b"three"):
        bench.publish(content=content)
    dying = replace(bench.registry, store=Dying(bench.registry.store, dies_at))
    plan = plan_sweep(bench.registry, NOW)
    with pytest.raises(Killed):
        sweep(dying, plan)
    check(bench.registry)
    swept(bench, orphans=True)
    check(bench.registry)
    assert len(blobs(bench.registry.store)) == 2
    with bench.registry.catalogue.read() as view:
        assert len(list(view.audit_entries())) >= 5


@pytest.fixture(params=["sqlite and a directory", "postgresql and s3"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if request.param == "postgresql and s3":
        request.getfixturevalue("s3_credentials")
        server = request.getfixturevalue("seaweedfs_server")
        url: str = request.getfixturevalue("postgresql_url")
        return url, server.url(f"tests/{uuid.uuid4().hex}")
    return f"sqlite:///{tmp_path}/shared.db", (tmp_path / "shared").as_uri()


def test_a_sweep_waits_for_whoever_makes_an_artifact_count(
    urls: tuple[str, str], tmp_path: Path
) -> None:
    bench = make_workbench(tmp_path / "bench", url=urls[0])
    other = open_catalogue(urls[0])

    def begin() -> None:
        with other.edit() as draft:
            draft.lock_for_sweep()

    with ThreadPoolExecutor(1) as pool:
        with bench.registry.catalogue.edit() as draft:
            draft.hold_sweep()
            waiting = pool.submit(begin)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
        waiting.result()
    for catalogue in (other, bench.registry.catalogue):
        catalogue.close()


def test_sweeps_and_publishes_at_once_lose_nothing(urls: tuple[str, str], tmp_path: Path) -> None:
    """Publishers of few contents and sweepers without any grace: the worst that may happen."""
    bench = make_workbench(tmp_path / "bench", url=urls[0], store=open_store(urls[1]))
    publications = [bench.publication(content=bytes([number % 3])) for number in range(18)]

    def registry() -> Registry:
        catalogue, store = open_catalogue(urls[0]), open_store(urls[1])
        return replace(bench.registry, catalogue=catalogue, store=store)

    def publish(mine: list[EnginePublication]) -> None:
        own = registry()
        for one in mine:
            own.publish_engine(one)
        own.catalogue.close()

    def sweep_often(_: object) -> None:
        own = registry()
        for _ in range(6):
            try:
                sweep(own, plan_sweep(own, NOW))
            except IntegrityError:  # swept by the other one between its look and its read
                continue
        own.catalogue.close()

    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(publish, publications[part::3]) for part in range(3)]
        done += [pool.submit(sweep_often, None) for _ in range(2)]
        for one in done:
            one.result()
    check(bench.registry)
    assert bench.registry.engines()
    bench.registry.catalogue.close()
