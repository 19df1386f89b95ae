"""Backups of a PostgreSQL catalogue, by its own `pg_dump`, `pg_restore` and `psql`.

The dump and the count of rows beside it are of one snapshot. It is put back in one transaction,
which first drops the catalogue's tables and in the end notes that it was: whole, or not at all.
`pg_restore --clean` would drop only what the dump has, and fail where a later revision's tables
refer to it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import column, func, inspect, literal, select, table, text, union_all
from sqlalchemy.engine import URL, Connection, Engine

from registry.backups.record import MARK, VERSIONS, Content, check_content
from registry.catalogue import connect, translated
from registry.errors import ConflictError, StoreUnavailableError
from registry.models import Row

_PATIENCE = 30  # seconds that a restore waits for whoever uses the catalogue, and holds up others
_TRIES = 4  # of a restore that the database ends, as others hold what it needs and wait for it
_HOURS = 4 * 3600.0  # seconds; a tool that takes longer waits for something that does not come

_OTHERS = """
SELECT 'process', pid, usename, coalesce(application_name, ''), state, 'since', xact_start
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 5
"""


def copy_out(url: URL, target: Path) -> Content:
    """Dumps a catalogue to a new file and returns what is in it."""
    tool = _tool("pg_dump")
    engine = connect(url)
    try:
        with (
            translated(url.render_as_string()),
            engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        ):
            snapshot = connection.scalar(text("SELECT pg_export_snapshot()"))
            content = Content.of(connection)
            options = ["--format=custom", f"--snapshot={snapshot}", f"--file={target}"]
            _run(url, [tool, *options, *_to(url)])
            return content
    finally:
        engine.dispose()


def copy_in(backup: Path, url: URL, expected: Content) -> None:
    """Puts a dump back whole, and counts it, in one transaction.

    Raises ConflictError, and changes nothing, where there are tables that are not a catalogue's.
    """
    restoring, running = _tool("pg_restore"), _tool("psql")
    engine = connect(url)
    try:
        with translated(url.render_as_string()), engine.connect() as connection:
            dropping = _dropping(connection, {*expected.rows, VERSIONS})
        with TemporaryDirectory(prefix="enginekeeper-restore-") as scratch:
            script = Path(scratch, "catalogue.sql")
            options = ["--no-owner", "--no-privileges", f"--file={script}"]
            _run(url, [restoring, *options, str(backup)])
            options = ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]
            options += ["--tuples-only", "--no-align"]
            # the script empties the search path
            steps = [f"--command={dropping}", f"--file={script}", "--command=RESET search_path"]
            if expected.has_marks:
                steps.append(f"--command={MARK}")
            counting = f"--command={_counting(engine, expected)}"  # before others write again
            said = _put_back(engine, [running, *options, *steps, counting, *_to(url)])
        found = _content(said, expected, where=url.render_as_string())
        check_content(found, expected.marked(), where=url.render_as_string())
    finally:
        engine.dispose()


def _counting(engine: Engine, expected: Content) -> str:
    """Returns the statement that tells how many rows each table has, and the revision."""
    told = {name: select(func.count()).select_from(table(name)) for name in expected.rows}
    told[VERSIONS] = select(func.max(column("version_num"))).select_from(table(VERSIONS))
    each = (
        select(func.json_build_array(literal(name), one.scalar_subquery()))
        for name, one in told.items()
    )
    whole = union_all(*each).compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})
    return str(whole)


def _content(said: str, expected: Content, *, where: str) -> Content:
    """Reads what `_counting` told: the last lines of what was said."""
    lines = said.splitlines()[-len(expected.rows) - 1 :]
    try:
        rows = {name: told for name, told in map(json.loads, lines)}  # noqa: C416 - lists of two
        revision = rows.pop(VERSIONS)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreUnavailableError(
            "psql did not tell what it put back",
            where=where,
            actual=said[-200:],
            remedy="enginekeeper db check says what is there",
        ) from error
    return Content(revision, rows)


def _put_back(engine: Engine, command: list[str]) -> str:
    """Runs what replaces the catalogue and returns what it said.

    Raises ConflictError where somebody holds on to it.
    """
    try:
        return _run_again(engine.url, command)
    except StoreUnavailableError as error:
        if "lock timeout" not in f"{error.what} {error.actual}":
            raise
        with engine.connect() as connection:
            sessions = connection.execute(text(_OTHERS)).all()
        raise ConflictError(
            f"somebody used the catalogue for more than {_PATIENCE} s; nothing was changed",
            where=engine.url.render_as_string(),
            actual="; ".join(" ".join(map(str, one)) for one in sessions) or "they are gone by now",
            expected="no open transaction",
            remedy="stop `ek serve`, flows and open sessions, and restore again",
        ) from error


def _run_again(url: URL, command: list[str]) -> str:
    """Runs it, and again after a deadlock: that changed nothing, and whoever it met has gone on."""
    for _ in range(_TRIES - 1):
        try:
            return _run(url, command, PGOPTIONS=f"-c lock_timeout={_PATIENCE}s")
        except StoreUnavailableError as error:
            if "deadlock detected" not in error.what:
                raise
    return _run(url, command, PGOPTIONS=f"-c lock_timeout={_PATIENCE}s")


def is_empty(url: URL) -> bool:
    """Says whether there is nothing that a restored catalogue would replace."""
    engine = connect(url)
    try:
        with translated(url.render_as_string()), engine.connect() as connection:
            return not _tables(connection)
    finally:
        engine.dispose()


def _tables(connection: Connection) -> list[str]:
    return inspect(connection).get_table_names()


def _dropping(connection: Connection, restored: Iterable[str]) -> str:
    """Returns the statement that drops the catalogue that is there, of whatever revision.

    All tables at once, so that none holds another; what somebody hung on them stops it.
    """
    found = set(_tables(connection))
    if strange := found - {*restored, *Row.metadata.tables}:
        raise ConflictError(
            "the database holds tables that are not those of a catalogue this version knows",
            where=connection.engine.url.render_as_string(),
            actual=", ".join(sorted(strange)),
            remedy="restore into an empty database; nothing was changed here",
        )
    inspector, quoted = inspect(connection), connection.dialect.identifier_preparer.quote_identifier
    schema = quoted(str(inspector.default_schema_name))
    names = ", ".join(f"{schema}.{quoted(name)}" for name in sorted(found))
    return f"DROP TABLE {names}" if names else "SELECT 1"


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise StoreUnavailableError(
            f"{name} is not on this machine, and PostgreSQL is backed up by it",
            where="PATH",
            expected=f"{name} of the server's version",
            remedy="install PostgreSQL's client programs, or run where they are",
        )
    return found


def _bare(url: URL) -> str:
    return url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)


def _to(url: URL) -> list[str]:
    """Returns the options that name a database."""
    return [f"--dbname={_bare(url)}", "--no-password"]


def _run(url: URL, command: list[str], **variables: str) -> str:
    """Runs a tool for a database and returns what it wrote.

    The password goes by the environment, not the command line.
    """
    bare = _bare(url)
    environment = {**os.environ, "LC_ALL": "C", **variables}
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_HOURS
        )
    except subprocess.TimeoutExpired as error:
        raise StoreUnavailableError(
            f"{Path(command[0]).name} did not end within four hours", where=bare
        ) from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise StoreUnavailableError(
            f"{Path(command[0]).name} failed: {said[0] if said else done.returncode}",
            where=bare,
            actual=" ".join(said[1:3]) or None,
            remedy="nothing was changed; if the versions differ, put the programs of the server's "
            "version first in PATH",
        )
    return done.stdout
