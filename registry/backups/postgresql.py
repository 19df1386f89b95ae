"""Backups of a PostgreSQL catalogue, by its own `pg_dump` and `pg_restore`.

The dump and the count of rows beside it are of one snapshot. It is put back in one transaction:
whole, or not at all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.engine import URL, Connection

from registry.backups.record import Content, check_content
from registry.catalogue import connect, translated
from registry.errors import StoreUnavailableError

_HOURS = 4 * 3600.0  # seconds; a tool that takes longer waits for something that does not come


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
            _run(url, [tool, "--format=custom", f"--snapshot={snapshot}", f"--file={target}"])
            return content
    finally:
        engine.dispose()


def copy_in(backup: Path, url: URL, expected: Content) -> None:
    """Puts a dump back whole, in one transaction; then counts what is there."""
    tool = _tool("pg_restore")
    options = ["--single-transaction", "--exit-on-error", "--clean", "--if-exists", "--no-owner"]
    _run(url, [tool, *options, "--no-privileges", str(backup)])
    engine = connect(url)
    try:
        with translated(url.render_as_string()), engine.connect() as connection:
            check_content(Content.of(connection), expected, where=url.render_as_string())
    finally:
        engine.dispose()


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


def _run(url: URL, command: list[str]) -> None:
    """Runs a tool on a database; the password goes by the environment, not the command line."""
    bare = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, "LC_ALL": "C"}
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    try:
        done = subprocess.run(
            [*command, f"--dbname={bare}", "--no-password"],
            env=environment, capture_output=True, text=True, check=False, timeout=_HOURS,
        )  # fmt: skip
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
