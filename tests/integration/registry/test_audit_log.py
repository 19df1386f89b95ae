"""The audit log under many writers, and what a downgrade leaves of the life cycle."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import text

from registry import migrate
from registry.audit import AuditEntry, verify_chain
from registry.catalogue import Catalogue, connect, open_catalogue, parse_url
from registry.errors import ConflictError
from registry.lifecycle import quarantine, release
from registry.retention import RetentionPolicy
from registry.sweeping import plan_sweep, sweep
from registry.types import Placement
from tests.factories.registry import CPU, START, make_workbench

WRITERS, EACH = 8, 10


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        yield request.getfixturevalue("postgresql_url")
    else:
        yield f"sqlite:///{tmp_path}/catalogue.db"


def entries_of(catalogue: Catalogue) -> list[AuditEntry]:
    with catalogue.read() as view:
        return list(view.audit_entries())


def test_many_writers_leave_one_unbroken_chain(url: str, tmp_path: Path) -> None:
    bench = make_workbench(tmp_path, url=url)
    engine = bench.publish()
    start = Barrier(WRITERS)

    def place(writer: int) -> None:
        catalogue = open_catalogue(url)
        start.wait()
        for number in range(EACH):
            placement = Placement(f"node-{writer}", f"/models/{number}", engine.digest, START)
            with catalogue.edit(actor=f"writer-{writer}") as draft:
                draft.add_placement(placement)
        catalogue.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(place, range(WRITERS)))
    entries = entries_of(bench.registry.catalogue)
    head = verify_chain(entries)
    assert head is not None
    assert head.number == 1 + WRITERS * EACH
    for writer in range(WRITERS):
        assert [one.actor for one in entries].count(f"writer-{writer}") == EACH
    bench.registry.catalogue.close()


def test_of_two_that_append_to_one_entry_one_is_refused(url: str, tmp_path: Path) -> None:
    """Whoever writes past the lock, by another program or by hand, does not fork the chain."""
    bench = make_workbench(tmp_path, url=url)
    bench.publish()
    engine = connect(parse_url(url))
    copy = (
        "INSERT INTO audit_log (id, at, actor, action, subject, details, previous, digest) "
        "SELECT 99, at, actor, action, subject, details, previous, 'x:' || digest FROM audit_log"
    )
    with pytest.raises(Exception, match=r"(?i)unique"), engine.begin() as connection:
        connection.execute(text(copy))
    engine.dispose()
    bench.registry.catalogue.close()


def test_a_change_waits_for_the_entry_before_it(postgresql_url: str, tmp_path: Path) -> None:
    bench = make_workbench(tmp_path, url=postgresql_url)
    engine = bench.publish()
    slow, quick = open_catalogue(postgresql_url), open_catalogue(postgresql_url)

    def place(catalogue: Catalogue, node: str) -> None:
        with catalogue.edit(actor=node) as draft:
            draft.add_placement(Placement(node, "/x", engine.digest, START))

    with ThreadPoolExecutor(1) as pool, slow.edit(actor="slow") as draft:
        draft.add_placement(Placement("slow", "/x", engine.digest, START))
        draft.write_log()
        waiting = pool.submit(place, quick, "quick")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        draft.note("last", "word", {})
    assert [one.actor for one in entries_of(slow)][-3:] == ["slow", "slow", "quick"]
    assert verify_chain(entries_of(slow)) is not None
    for catalogue in (slow, quick, bench.registry.catalogue):
        catalogue.close()


def test_a_downgrade_keeps_what_it_can_of_channels_that_outlived_engines(
    url: str, tmp_path: Path
) -> None:
    bench = make_workbench(tmp_path, url=url)
    engines = [bench.publish(content=bytes([number])) for number in range(2)]
    for engine in engines:
        bench.judge(engine)
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    quarantine(bench.registry, engines[1], "odd")
    policy = RetentionPolicy(grace=timedelta(days=-1), rollbacks=0)
    assert sweep(bench.registry, plan_sweep(bench.registry, policy)).engines == [engines[0].digest]
    migrate.downgrade(url, "b41d07e6c2f8")
    assert migrate.upgrade(url) == migrate.head()
    (move,) = bench.registry.channel_history("prod", "smollm2-135m")
    assert (move.engine, move.previous) == (engines[1].digest, None)
    # the row of the quarantine was forgotten; its statement lies beside the engine
    assert bench.registry.gate(engines[1].digest, CPU).rule == "quarantined"
    assert entries_of(bench.registry.catalogue) == []
    bench.registry.catalogue.close()


def test_two_that_revoke_or_release_at_once_do_it_once(url: str, tmp_path: Path) -> None:
    bench = make_workbench(tmp_path, url=url)
    engine = bench.publish()
    quarantine(bench.registry, engine, "odd")

    def let_go(_: int) -> bool:
        try:
            release(bench.registry, engine, "fine")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(let_go, range(4))).count(True) == 1
    bench.registry.catalogue.close()
