"""Backups of a SQLite catalogue, by SQLite's own online copy.

The copy is one state of the catalogue, whoever writes meanwhile. It is put back in one transaction
*into* the file, never over it: a file that is exchanged beneath its write-ahead log is a broken
one, and who has it open would go on in the old one.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL

from registry.backups.record import MARK, Content, check_content
from registry.catalogue import translated
from registry.errors import DiskFullError, IntegrityError, StoreUnavailableError

_WAIT = 30.0  # seconds for who writes meanwhile


def copy_out(url: URL, target: Path) -> Content:
    """Writes a copy of a catalogue to a new file and returns what is in it."""
    source = Path(str(url.database))
    with (
        _translated(source),
        closing(_open(source)) as reader,
        closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode = DELETE")  # one file, with no log beside it
    return verify(target)


def copy_in(backup: Path, url: URL, expected: Content) -> None:
    """Puts a copy back whole; leaves the catalogue as it was if it is not what is expected."""
    check_content(verify(backup), expected, where=str(backup))
    target = Path(str(url.database))
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.restoring-", dir=target.parent) as scratch:
        marked = Path(scratch, "catalogue.sqlite")
        shutil.copyfile(backup, marked)
        with _translated(target):
            _mark(marked, expected)
            with (
                closing(_open(marked)) as reader,
                closing(sqlite3.connect(target, timeout=_WAIT)) as writer,
            ):
                reader.backup(writer)
                writer.execute("PRAGMA journal_mode = WAL")
    check_content(verify(target), expected.marked(), where=str(target))


def _mark(draft: Path, content: Content) -> None:
    """Notes in a copy that it is a restored one, before it is the catalogue: both in one step."""
    if not content.has_marks:
        return
    with closing(sqlite3.connect(draft)) as writer, writer:
        writer.execute(MARK)


def is_empty(url: URL) -> bool:
    """Says whether there is nothing that a restored catalogue would replace."""
    path = Path(str(url.database))
    return not path.exists() or path.stat().st_size == 0


def verify(path: Path) -> Content:
    """Reads every page of a database and returns what is in it; raises IntegrityError.

    Changes nothing: the digest of a backup is of these very bytes.
    """
    with _translated(path), closing(_open(path)) as connection:
        faults = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        faults = [] if faults == ["ok"] else faults
        dangling = connection.execute("PRAGMA foreign_key_check")
        faults += [f"row {row[1]} of {row[0]} points nowhere" for row in dangling]
    if faults:
        raise IntegrityError(
            "the database is damaged", where=str(path), actual="; ".join(faults[:5]),
            expected="no fault", remedy="restore another backup",
        )  # fmt: skip
    engine = create_engine("sqlite://", creator=lambda: _open(path), poolclass=NullPool)
    with translated(str(path)), engine.connect() as reading:
        return Content.of(reading)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    where = str(path)
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise DiskFullError(
                "the disk is full", where=where, remedy="free some space and run again"
            ) from error
        if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise IntegrityError(
                f"not a whole SQLite database: {error}",
                where=where,
                remedy="restore another backup",
            ) from error
        raise StoreUnavailableError(
            f"the catalogue's file cannot be used: {error}", where=where,
            remedy="check that it is there and that nobody holds it",
            transient="locked" in str(error),
        ) from error  # fmt: skip
