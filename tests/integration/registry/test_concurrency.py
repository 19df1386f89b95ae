"""Publishers, validators and operators at once, each with connections of their own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from registry import migrate, publishing
from registry.attestations import sign
from registry.beside import find_lost, take_in
from registry.blobs.select import open_store
from registry.catalogue import open_catalogue
from registry.errors import ConflictError, GateClosedError
from registry.lifecycle import blast_radius, revoke
from registry.moving import Mover
from registry.queries import View
from registry.revocations import Revocation, revocation
from registry.service import Registry
from registry.standing import Standing
from registry.statements import put_statement
from registry.timing import shelf
from registry.trust import Purpose
from registry.types import ChannelPosition, Engine, Result, Verdict
from tests.factories.registry import CPU, Workbench, cpu_key, make_workbench
from tests.factories.timing import KEY, latest, publication
from tests.fakes.statements import asked

Made = TypeVar("Made")
PUBLISHERS = 8


@pytest.fixture(params=["sqlite and a directory", "postgresql and s3"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    if request.param == "postgresql and s3":
        request.getfixturevalue("s3_credentials")
        server = request.getfixturevalue("seaweedfs_server")
        yield request.getfixturevalue("postgresql_url"), server.url(f"tests/{uuid.uuid4().hex}")
    else:
        yield f"sqlite:///{tmp_path}/catalogue.db", (tmp_path / "store").as_uri()


@pytest.fixture
def bench(urls: tuple[str, str], tmp_path: Path) -> Workbench:
    return make_workbench(tmp_path, url=urls[0], store=open_store(urls[1]))


@pytest.fixture
def registries(bench: Workbench, urls: tuple[str, str]) -> Iterator[list[Registry]]:
    """What as many processes would each open for themselves."""
    opened = [
        replace(bench.registry, catalogue=open_catalogue(urls[0]), store=open_store(urls[1]))
        for _ in range(PUBLISHERS)
    ]
    yield opened
    for registry in [*opened, bench.registry]:
        registry.catalogue.close()


def at_once(registries: list[Registry], action: Callable[[int, Registry], Made]) -> list[Made]:
    with ThreadPoolExecutor(len(registries)) as pool:
        return list(pool.map(action, range(len(registries)), registries))


def test_publishers_of_one_key_leave_every_content_complete(
    bench: Workbench, registries: list[Registry], tmp_path: Path
) -> None:
    publications = [bench.publication(content=bytes([number // 2])) for number in range(PUBLISHERS)]

    def publish(number: int, registry: Registry) -> Engine:
        return registry.publish_engine(publications[number])

    engines = at_once(registries, publish)
    found = bench.registry.engines()
    assert {engine.digest for engine in engines} == {engine.digest for engine in found}
    assert len(found) == PUBLISHERS // 2
    assert {engine.key.digest() for engine in found} == {cpu_key().digest()}
    for engine in found:
        bench.registry.fetch_engine(engine.digest, tmp_path / "out" / engine.digest.short)


def test_one_verdict_recorded_by_many_is_one_verdict(
    bench: Workbench, registries: list[Registry]
) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine)
    verdicts = at_once(
        registries, lambda _, registry: registry.record_verdict(engine.digest, document, envelope)
    )
    assert len({verdict.digest for verdict in verdicts}) == 1
    assert len(bench.registry.verdicts(engine.digest)) == 1
    assert len(bench.registry.qualifications()) == 1


def test_one_reference_recorded_by_many_is_one_reference(
    bench: Workbench, registries: list[Registry]
) -> None:
    publications = [bench.reference() for _ in registries]
    references = at_once(
        registries, lambda number, registry: registry.record_reference(publications[number])
    )
    assert len({one.provenance for one in publications}) == PUBLISHERS
    assert len(set(references)) == 1
    assert bench.registry.references() == references[:1]


def test_of_builders_who_measured_at_once_the_last_wins_and_no_cache_is_spoiled(
    bench: Workbench, registries: list[Registry], tmp_path: Path
) -> None:
    publications = [publication(bench, bytes([number // 2])) for number in range(PUBLISHERS)]

    at_once(registries, lambda number, registry: shelf.publish(registry, publications[number]))

    with bench.registry.catalogue.read() as view:
        caches = view.timing.caches(KEY)
    found, doubts = latest(bench.registry, KEY, simulated=False)
    assert len(caches) == PUBLISHERS // 2
    assert (found, doubts) == (caches[0], ())
    contents = {
        shelf.fetch(bench.registry, one, tmp_path / one.digest.short).read_bytes() for one in caches
    }
    assert contents == {bytes([number]) for number in range(PUBLISHERS // 2)}


def test_a_channels_history_has_no_forks(bench: Workbench, registries: list[Registry]) -> None:
    engines = [bench.publish(content=bytes([number])) for number in range(PUBLISHERS)]
    for engine in engines:
        bench.judge(engine)

    def move(number: int, registry: Registry) -> bool:
        try:
            registry.set_channel("prod", engines[number].digest, CPU, actor=f"actor-{number}")
        except ConflictError:
            return False
        return True

    moved = at_once(registries, move)
    history = bench.registry.channel_history("prod", "smollm2-135m")
    assert any(moved)
    assert len(history) == moved.count(True)
    befores = [move.previous for move in history]
    assert befores == [*(move.engine for move in history[1:]), None]
    (position,) = bench.registry.channels()
    assert position.engine == history[0].engine


def test_a_move_on_a_stale_look_is_refused(postgresql_url: str, tmp_path: Path) -> None:
    bench = make_workbench(tmp_path, url=postgresql_url)
    first, second, third = (bench.publish(content=bytes([number])) for number in range(3))
    for engine in (first, second, third):
        bench.judge(engine)
    bench.registry.set_channel("prod", first.digest, CPU, actor="anna")
    (move,) = bench.registry.channel_history("prod", "smollm2-135m")
    late = replace(move, engine=third.digest, previous=first.digest, actor="late")
    with bench.registry.catalogue.edit() as draft:
        assert draft.channels()[0].engine == first.digest
        bench.registry.set_channel("prod", second.digest, CPU, actor="quick")
        with pytest.raises(ConflictError, match="moved by somebody else"):
            draft.move_channel(late, simulated=False)
    assert bench.registry.channels()[0].engine == second.digest
    bench.registry.catalogue.close()


def test_an_older_pass_never_comes_to_lie_behind_a_newer_fail(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_workbench(tmp_path, url=postgresql_url)
    engine = bench.publish()
    older, newer = (bench.verdict_on(engine, result) for result in (Result.PASS, Result.FAIL))
    looked, go_on = threading.Event(), threading.Event()

    def linger(view: View, verdict: Verdict) -> None:
        check_not_backdated(view, verdict)
        if verdict.result is Result.PASS:
            looked.set()
            assert go_on.wait(30)

    check_not_backdated = publishing._check_not_backdated
    monkeypatch.setattr(publishing, "_check_not_backdated", linger)
    with ThreadPoolExecutor(2) as pool:
        passing = pool.submit(bench.registry.record_verdict, engine.digest, *older)
        assert looked.wait(30)
        failing = pool.submit(bench.registry.record_verdict, engine.digest, *newer)
        with pytest.raises(TimeoutError):
            failing.result(timeout=1)  # it waits for the engine
        go_on.set()
        passing.result()
        failing.result()
    assert bench.registry.gate(engine.digest, CPU).rule == "verdict-failed"
    bench.registry.catalogue.close()


def test_a_revocation_that_two_take_in_at_once_is_recorded_once(
    postgresql_url: str, tmp_path: Path
) -> None:
    bench = make_workbench(tmp_path, url=postgresql_url)
    engine, registry = bench.publish(), bench.registry
    said = revocation(engine, Revocation("bad", "anna", bench.clock()))
    envelope = sign(said, bench.signers.revoker)
    put_statement(registry.store, engine.digest, Purpose.REVOCATION, envelope)
    with registry.catalogue.read() as view:
        lost = find_lost(view, registry.store, engine, registry.trust, registry.clock())

    def take() -> int:
        with registry.catalogue.edit() as draft:
            return take_in(draft, lost)

    with ThreadPoolExecutor(1) as pool:
        with registry.catalogue.edit() as draft:
            assert take_in(draft, lost) == 1
            second = pool.submit(take)
            with pytest.raises(TimeoutError):
                second.result(timeout=1)  # it waits for the engine
        assert second.result() == 0
    with registry.catalogue.read() as view:
        assert [one.kind for one in view.standing(engine.digest)] == [Standing.REVOKED]
    registry.catalogue.close()


def test_who_revokes_an_engine_sees_a_channel_that_is_being_moved_to_it(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_workbench(tmp_path, url=postgresql_url)
    engine = bench.publish()
    bench.judge(engine)
    looked, go_on = threading.Event(), threading.Event()

    def linger(mover: Mover, *rest: Any) -> ChannelPosition:  # noqa: ANN401 - handed on
        looked.set()
        assert go_on.wait(30)
        return moved(mover, *rest)

    moved = Mover._moved
    monkeypatch.setattr(Mover, "_moved", linger)
    move = partial(bench.registry.set_channel, "prod", engine.digest, CPU, actor="anna")
    with ThreadPoolExecutor(2) as pool:
        moving = pool.submit(move)
        assert looked.wait(30)
        revoking = pool.submit(revoke, bench.registry, engine, "bad", bench.signers.revoker)
        with pytest.raises(TimeoutError):
            revoking.result(timeout=1)  # it waits for the engine
        go_on.set()
        moving.result()
        revoking.result()
    assert [one.channel for one in blast_radius(bench.registry, engine).channels] == ["prod"]
    with pytest.raises(GateClosedError):
        move()
    bench.registry.catalogue.close()


def test_a_task_is_given_free_before_its_connection_is_closed(postgresql_url: str) -> None:
    migrate.upgrade(postgresql_url)
    catalogue = open_catalogue(postgresql_url)
    with asked() as statements, catalogue.alone("prune"):
        pass
    assert "pg_advisory_unlock" in statements[-1]
    with catalogue.alone("prune"):
        pass
    catalogue.close()
