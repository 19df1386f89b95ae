"""Backups of the catalogue: one state, verified before and after, and nothing overwritten."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from registry import layout, migrate
from registry.backups import postgresql
from registry.backups.backup import backup, restore
from registry.backups.record import record_path
from registry.catalogue import connect, open_catalogue, parse_url
from registry.digests import digest_file
from registry.errors import (
    CatalogueOutdatedError,
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.lifecycle import quarantine, revoke
from registry.scrubbing import scrub
from registry.standing import Standing
from registry.statements import put_statement
from registry.trust import Purpose
from tests.factories.registry import CPU, Workbench, make_workbench
from tests.fakes.servers import postgresql_programs

OLDER = "e0a95c3f7d14"
"""A revision from before waivers, standings and the audit log."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        request.getfixturevalue("programs")
        yield request.getfixturevalue("postgresql_url")
    else:
        yield f"sqlite:///{tmp_path}/catalogue.db"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{postgresql_programs()}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def filled(url: str, tmp_path: Path) -> Iterator[Workbench]:
    bench = make_workbench(tmp_path / "bench", url=url)
    engine = bench.publish()
    bench.judge(engine)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    yield bench
    bench.registry.catalogue.close()


def execute(url: str, statement: str) -> None:
    engine = connect(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def state(bench: Workbench) -> object:
    registry = bench.registry
    engines = registry.engines()
    return engines, [registry.verdicts(one.digest) for one in engines], registry.channels()


def test_what_was_there_is_there_again(url: str, filled: Workbench, tmp_path: Path) -> None:
    before = state(filled)
    record = backup(url, tmp_path / "kept")
    engine = filled.publish(content=b"since then")
    filled.judge(engine)

    restored = restore(tmp_path / "kept", url, overwrite=True)

    assert restored == record
    assert record.content.rows["engines"] == record.content.rows["qualifications"] == 1
    assert state(filled) == before
    migrate.check(url)


def unchecked(bench: Workbench) -> bool:
    with bench.registry.catalogue.read() as view:
        return bool(view.unchecked())


def test_a_restored_catalogue_says_so_until_it_was_scrubbed(
    url: str, filled: Workbench, tmp_path: Path
) -> None:
    backup(url, tmp_path / "kept")
    (engine,) = filled.registry.engines()
    revoke(filled.registry, engine, "wrong tokens", filled.signers.revoker)
    assert not unchecked(filled)
    restore(tmp_path / "kept", url, overwrite=True)
    assert unchecked(filled)
    assert filled.registry.gate(engine.digest, CPU).rule == "revoked"
    scrub(filled.registry)
    assert not unchecked(filled)
    assert filled.registry.gate(engine.digest, CPU).rule == "revoked"


@pytest.mark.parametrize("junk", [b"ab\x00cd", b"\xff", b""], ids=["NUL", "not UTF-8", "empty"])
def test_junk_beside_an_engine_does_not_stop_the_scrub_of_a_restored_catalogue(
    url: str, filled: Workbench, tmp_path: Path, junk: bytes
) -> None:
    backup(url, tmp_path / "kept")
    (engine,) = filled.registry.engines()
    restore(tmp_path / "kept", url, overwrite=True)
    for name in (layout.QUARANTINE, Purpose.REVOCATION):
        put_statement(filled.registry.store, engine.digest, name, junk)
    assert scrub(filled.registry).wrong == []
    assert not unchecked(filled)
    held = filled.registry.held(engine)
    assert held is not None
    assert held.kind is Standing.QUARANTINED


def test_a_restored_catalogue_goes_on(url: str, filled: Workbench, tmp_path: Path) -> None:
    backup(url, tmp_path / "kept")
    restore(tmp_path / "kept", url, overwrite=True)
    engine = filled.publish(content=b"after")
    filled.judge(engine)
    assert len(filled.registry.engines()) == 2


def test_a_catalogue_is_not_overwritten_unasked(
    url: str, filled: Workbench, tmp_path: Path
) -> None:
    backup(url, tmp_path / "kept")
    filled.publish(content=b"since then")
    before = state(filled)
    with pytest.raises(ConflictError, match="--yes"):
        restore(tmp_path / "kept", url, overwrite=False)
    assert state(filled) == before


@pytest.mark.usefixtures("filled")
def test_a_backup_is_not_overwritten(url: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"something dear")
    with pytest.raises(ConflictError, match="file already"):
        backup(url, tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"something dear"


def test_a_dry_run_verifies_and_changes_nothing(
    url: str, filled: Workbench, tmp_path: Path
) -> None:
    record = backup(url, tmp_path / "kept")
    filled.publish(content=b"since then")
    before = state(filled)
    assert restore(tmp_path / "kept", url, overwrite=False, dry_run=True) == record
    assert state(filled) == before


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut short": lambda data: data[:-512],
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_backup_is_refused_before_anything_changes(
    url: str, filled: Workbench, tmp_path: Path, how: str
) -> None:
    kept = tmp_path / "kept"
    backup(url, kept)
    before = state(filled)
    kept.write_bytes(SPOILED[how](kept.read_bytes()))
    with pytest.raises(IntegrityError, match="not the one that was made"):
        restore(kept, url, overwrite=True)
    assert state(filled) == before


@pytest.mark.usefixtures("filled")
def test_a_backup_is_refused_that_a_newer_version_made(url: str, tmp_path: Path) -> None:
    execute(url, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    backup(url, tmp_path / "kept")
    with pytest.raises(CatalogueOutdatedError, match="newer version"):
        restore(tmp_path / "kept", url, overwrite=True)


def test_a_backup_of_an_older_revision_is_restored_as_it_is(
    url: str, filled: Workbench, tmp_path: Path
) -> None:
    migrate.downgrade(url, OLDER)
    backup(url, tmp_path / "kept")
    migrate.upgrade(url)
    (engine,) = filled.registry.engines()
    filled.waive(engine, "verdict-failed")  # its table, and others, point to what is restored
    quarantine(filled.registry, engine, "odd")

    record = restore(tmp_path / "kept", url, overwrite=True)

    assert (migrate.current(url), record.content.revision) == (OLDER, OLDER)
    migrate.upgrade(url)
    migrate.check(url)
    assert filled.registry.engines() == [engine]
    assert filled.registry.waivers() == []
    assert unchecked(filled)  # the older one could not say so: the migration does


@pytest.mark.usefixtures("programs")
def test_tables_of_somebody_else_are_not_dropped(postgresql_url: str, tmp_path: Path) -> None:
    make_workbench(tmp_path / "other", url=postgresql_url).registry.catalogue.close()
    backup(postgresql_url, tmp_path / "kept")
    execute(postgresql_url, "CREATE TABLE dear (id INTEGER)")
    with pytest.raises(ConflictError, match="not those of a catalogue"):
        restore(tmp_path / "kept", postgresql_url, overwrite=True)
    execute(postgresql_url, "INSERT INTO dear VALUES (1)")


@pytest.mark.usefixtures("programs")
def test_a_restore_that_fails_halfway_leaves_what_was_there(
    postgresql_url: str, tmp_path: Path
) -> None:
    bench = make_workbench(tmp_path / "other", url=postgresql_url)
    engine = bench.publish()
    backup(postgresql_url, tmp_path / "kept")
    execute(postgresql_url, "DROP TABLE waivers")
    execute(postgresql_url, "CREATE VIEW waivers AS SELECT 1 AS one")
    with pytest.raises(StoreUnavailableError, match="waivers"):
        restore(tmp_path / "kept", postgresql_url, overwrite=True)
    assert bench.registry.engines() == [engine]
    bench.registry.catalogue.close()


@pytest.mark.usefixtures("programs")
def test_a_restore_waits_for_nobody_without_a_word(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_workbench(tmp_path / "other", url=postgresql_url)
    engine = bench.publish()
    backup(postgresql_url, tmp_path / "kept")
    monkeypatch.setattr(postgresql, "_PATIENCE", 1)
    reader = connect(parse_url(postgresql_url))
    with reader.begin() as connection:
        number = connection.scalar(text("SELECT pg_backend_pid() FROM engines"))
        with pytest.raises(ConflictError, match="nothing was changed") as caught:
            restore(tmp_path / "kept", postgresql_url, overwrite=True)
    reader.dispose()
    assert f"process {number}" in str(caught.value.actual)
    assert bench.registry.engines() == [engine]
    restore(tmp_path / "kept", postgresql_url, overwrite=True)
    bench.registry.catalogue.close()


@pytest.mark.usefixtures("programs")
def test_a_restore_that_meets_somebody_in_a_deadlock_is_done_again(
    postgresql_url: str, tmp_path: Path
) -> None:
    bench = make_workbench(tmp_path / "other", url=postgresql_url)
    engine = bench.publish()
    backup(postgresql_url, tmp_path / "kept")
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'waivers'::regclass"
    )
    other = connect(parse_url(postgresql_url))
    with ThreadPoolExecutor(1) as pool:
        with other.begin() as connection:
            connection.execute(text("SET LOCAL deadlock_timeout = '60s'"))  # it is not the victim
            connection.execute(text("LOCK TABLE waivers"))  # late in the order of names
            restoring = pool.submit(restore, tmp_path / "kept", postgresql_url, overwrite=True)
            while not connection.scalar(waiting):
                assert not restoring.done()
            connection.execute(text("LOCK TABLE audit_log"))  # the restore has it
        restoring.result()
    other.dispose()
    assert bench.registry.engines() == [engine]
    bench.registry.catalogue.close()


@pytest.mark.usefixtures("programs")
def test_what_others_write_after_a_restore_is_no_damage_of_it(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_workbench(tmp_path / "other", url=postgresql_url)
    bench.publish()
    backup(postgresql_url, tmp_path / "kept")
    put_back = postgresql._put_back

    def followed(*asked: Any) -> str:  # noqa: ANN401 - whatever it is asked
        said = put_back(*asked)
        bench.publish(content=b"newer")
        return said

    monkeypatch.setattr(postgresql, "_put_back", followed)
    restore(tmp_path / "kept", postgresql_url, overwrite=True)
    assert len(bench.registry.engines()) == 2
    bench.registry.catalogue.close()


@pytest.mark.parametrize("name", ["revision", "database", "made_at", "rows"])
def test_a_record_of_another_shape_is_no_record(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path}/catalogue.db"
    make_workbench(tmp_path, url=url).registry.catalogue.close()
    backup(url, tmp_path / "kept")
    path = record_path(tmp_path / "kept")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: ["a"]}))
    with pytest.raises(InvalidRecordError, match="not the record of a backup"):
        restore(tmp_path / "kept", url, overwrite=True)


@pytest.mark.usefixtures("filled")
def test_rows_that_are_not_what_the_record_says_are_noticed(url: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    backup(url, kept)
    path = record_path(kept)
    path.write_text(path.read_text().replace('"engines": 1', '"engines": 2'))
    with pytest.raises(IntegrityError, match="not what was backed up"):
        restore(kept, url, overwrite=True)


def test_a_backup_leaves_nothing_beside_it(url: str, filled: Workbench, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    backup(url, tmp_path / "kept" / "one")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"one", "one.json"}
    assert len(filled.registry.engines()) == 1


def test_there_is_nothing_to_back_up_before_there_is_a_catalogue(tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError, match="no catalogue to back up"):
        backup(f"sqlite:///{tmp_path}/none.db", tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError, match="no such backup"):
        restore(tmp_path / "none", f"sqlite:///{tmp_path}/catalogue.db", overwrite=False)


def test_a_backup_of_the_other_kind_is_refused(postgresql_url: str, tmp_path: Path) -> None:
    make_workbench(tmp_path / "bench")
    backup(f"sqlite:///{tmp_path}/bench/catalogue.db", tmp_path / "kept")
    with pytest.raises(InvalidRecordError, match="another"):
        restore(tmp_path / "kept", postgresql_url, overwrite=True)


def test_a_missing_catalogue_is_restored_where_it_was(tmp_path: Path) -> None:
    bench = make_workbench(tmp_path / "bench")
    engine = bench.publish()
    backup(f"sqlite:///{tmp_path}/bench/catalogue.db", tmp_path / "kept")
    url = f"sqlite:///{tmp_path}/new/catalogue.db"
    restore(tmp_path / "kept", url, overwrite=False)
    restored = open_catalogue(url)
    with restored.read() as view:
        assert view.engines() == [engine]
    restored.close()


def test_a_damaged_page_is_found_though_the_record_fits(tmp_path: Path) -> None:
    """As where a file was damaged before it was backed up by hand."""
    make_workbench(tmp_path / "bench").publish()
    kept = tmp_path / "kept"
    backup(f"sqlite:///{tmp_path}/bench/catalogue.db", kept)
    with closing(sqlite3.connect(kept)) as database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute("UPDATE engines SET model_id = 77")
        database.commit()
    document = record_path(kept).read_text()
    old = document.partition('"digest": "')[2].partition('"')[0]
    record_path(kept).write_text(document.replace(old, str(digest_file(kept))))
    with pytest.raises(IntegrityError, match="damaged"):
        restore(kept, f"sqlite:///{tmp_path}/new.db", overwrite=False)
    assert not (tmp_path / "new.db").exists()


def test_without_the_servers_programs_it_says_so(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_workbench(tmp_path / "bench", url=postgresql_url).registry.catalogue.close()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreUnavailableError, match="pg_dump is not on this machine"):
        backup(postgresql_url, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
