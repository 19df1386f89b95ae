"""The catalogue: SQLite or PostgreSQL by address, read and changed in units of work.

Rules:

- a change happens whole or not at all: `edit` commits when its block ends and leaves nothing
  when it raises;
- `read` sees one state of the catalogue from its first query to its last, and changes nothing;
- what comes out are values of `registry.types`; rows and sessions stay inside.

Example:
    catalogue = open_catalogue("sqlite:////var/lib/enginekeeper/catalogue.db")
    with catalogue.read() as view:
        engines = view.engines(EngineFilter(recipe="w8a16"))
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.orm import Session

from registry.errors import (
    CatalogueOutdatedError,
    ConflictError,
    DiskFullError,
    InvalidRecordError,
    StoreUnavailableError,
)
from registry.fleet.columns import IN_BINARY
from registry.models import REVISION
from registry.queries import View
from registry.records import Draft
from registry.writing import UNNAMED

_WAIT_MS = 30_000  # how long a writer waits for another one before it gives up
_WRITES = "enginekeeper_writes"
_SQLITE_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
"""The second: the file beside the database that its users share could not grow."""
_POSTGRES_OPTIONS = (
    f"-c lock_timeout={_WAIT_MS} -c statement_timeout={2 * _WAIT_MS} "
    # a page out of order costs what one in order does, in memory and on flash: by PostgreSQL's own
    # number, four times as much, it reads all heartbeats to find those of 700 nodes
    "-c random_page_cost=1.1 "
    "-c timezone=UTC"  # times come back in one zone, whatever the server's is
)
_LOCK = text("SELECT pg_try_advisory_lock(hashtext(:task))")
_UNLOCK = text("SELECT pg_advisory_unlock(hashtext(:task))")


class Catalogue:
    """An open catalogue; safe to share between threads."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = self._reader = engine
        self._writer = engine.execution_options(**{_WRITES: True})
        self._is_postgresql = engine.dialect.name == "postgresql"
        if self._is_postgresql:
            self._reader = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        self.url = engine.url.render_as_string(hide_password=True)
        """The catalogue's address, its password hidden."""

    @contextmanager
    def edit(self, *, actor: str = UNNAMED, dry_run: bool = False) -> Iterator[Draft]:
        """Gives a draft of changes; commits them when the block ends, or leaves nothing.

        The audit log names the actor, unless a change names its own. A dry run fails where the
        change would, and leaves nothing either way.
        """
        with translated(self.url), Session(self._writer) as session, session.begin() as changes:
            draft = Draft(session, actor)
            yield draft
            draft.write_log()
            if dry_run:
                changes.rollback()

    @contextmanager
    def read(self) -> Iterator[View]:
        """Gives a view of one state of the catalogue."""
        with translated(self.url), Session(self._reader) as session:
            yield View(session)
            if self._is_postgresql:
                session.commit()  # psycopg forgets what it prepared when something is rolled back

    @contextmanager
    def alone(self, task: str) -> Iterator[None]:
        """Lets one process at a time do a task with this catalogue; raises ConflictError.

        The database gives the task free when the process ends, however that happens.
        """
        where = self.url
        if self._is_postgresql:
            with translated(where), self._engine.connect() as connection:
                if not connection.execute(_LOCK, {"task": f"enginekeeper {task}"}).scalar():
                    raise _taken(task, where)
                connection.commit()  # the lock is the connection's, not the transaction's
                connection.detach()  # which no pool keeps
                try:
                    yield
                finally:  # a server that is busy sees late that a connection was closed
                    with suppress(DBAPIError):
                        connection.execute(_UNLOCK, {"task": f"enginekeeper {task}"})
            return
        with Path(f"{self._engine.url.database}.{task}").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _taken(task, where) from error
            yield

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()


def open_catalogue(url: str) -> Catalogue:
    """Opens a catalogue that is migrated to this version; creates nothing.

    Raises CatalogueOutdatedError when it is missing or of another version, InvalidRecordError
    for an address that names no catalogue, StoreUnavailableError when it does not answer.
    """
    parsed = parse_url(url)
    if _is_file(parsed) and not Path(str(parsed.database)).is_file():
        raise _outdated(parsed, "there is no catalogue yet")
    engine = connect(parsed)
    with translated(parsed.render_as_string()), engine.connect() as connection:
        found = revision_of(connection)
    if found != REVISION:
        engine.dispose()
        raise _outdated(parsed, f"revision {found or 'none'}")
    return Catalogue(engine)


def parse_url(url: str) -> URL:
    """Reads the address of a catalogue; raises InvalidRecordError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise _not_an_address(url) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg") or not parsed.database:
        raise _not_an_address(parsed.render_as_string(hide_password=True))
    return parsed


def connect(url: URL, *, foreign_keys: bool = True) -> sqlalchemy.Engine:
    """Makes the connection pool of an address; connects on first use."""
    try:
        if url.get_backend_name() == "postgresql":
            arguments = {
                "connect_timeout": 10,
                "client_encoding": "utf8",  # a database made under the C locale answers in bytes
                "options": _POSTGRES_OPTIONS,
            }
            engine = sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args=arguments)
            _answer_in_binary(engine)
            return engine
        engine = sqlalchemy.create_engine(url, connect_args={"timeout": _WAIT_MS / 1000})
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise InvalidRecordError(
            f"the database driver is not installed: {error}",
            where=url.render_as_string(),
            remedy="pip install 'enginekeeper[postgres]'",
        ) from error
    _prepare_sqlite(engine, foreign_keys=foreign_keys)
    return engine


def revision_of(connection: Connection) -> str | None:
    """Returns the migration a catalogue is at, or None for an empty database."""
    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turns the database's errors into the registry's."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(
            f"the catalogue refused the change: {_reason(error)}",
            where=where,
            remedy="somebody else may have recorded it first; look, and run again",
            transient=True,
        ) from error
    except DataError as error:
        raise InvalidRecordError(f"not storable: {_reason(error)}", where=where) from error
    except SQLAlchemyError as error:
        if _is_full(error):
            raise DiskFullError(
                "the disk is full", where=where, remedy="free some space and run again"
            ) from error
        raise StoreUnavailableError(
            f"the catalogue does not answer: {_reason(error)}",
            where=where,
            remedy="check that it runs, that the disk has room, and that you may write to it",
            transient=_may_pass(error),
        ) from error


def _taken(task: str, where: str) -> ConflictError:
    return ConflictError(
        f"another process does this with the catalogue already: {task}",
        where=where,
        remedy="end the other one first",
    )


def _answer_in_binary(engine: sqlalchemy.Engine) -> None:
    """Lets PostgreSQL answer in binary where a statement asks for it."""
    form = engine.dialect.loaded_dbapi.pq.Format.BINARY

    @event.listens_for(engine, "before_cursor_execute")
    def _asked(_: Connection, cursor: Any, *asked: Any) -> None:  # noqa: ANN401 - the driver's
        context = asked[2]
        if context is not None and context.execution_options.get(IN_BINARY):
            cursor.format = form


def _prepare_sqlite(engine: sqlalchemy.Engine, *, foreign_keys: bool) -> None:
    """Sets up what SQLite leaves off, and takes transactions out of the driver's hands.

    The driver begins a transaction late, at the first write, and as a reader: two of them that
    want to write then fail at once instead of waiting. `BEGIN IMMEDIATE` waits.
    """

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's own type
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, not foreign_keys)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_full(error: SQLAlchemyError) -> bool:
    name = getattr(error.orig, "sqlite_errorname", None) if isinstance(error, DBAPIError) else None
    return name in _SQLITE_FULL


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _may_pass(error: SQLAlchemyError) -> bool:
    """Says whether a database did not answer, or was busy; SQLite's other errors are of its file.

    PostgreSQL's full disk is an OperationalError too; trying that again costs half a minute.
    """
    if not isinstance(error, OperationalError):
        return False
    return not isinstance(error.orig, sqlite3.Error) or "locked" in str(error.orig)


def _reason(error: SQLAlchemyError) -> str:
    original = error.orig if isinstance(error, DBAPIError) else None
    return str(original or error).strip().splitlines()[0]


def _not_an_address(url: str) -> InvalidRecordError:
    return InvalidRecordError(
        "not the address of a catalogue",
        actual=url,
        expected="sqlite:////path/to/catalogue.db or postgresql://user@host/database",
    )


def _outdated(url: URL, found: str) -> CatalogueOutdatedError:
    return CatalogueOutdatedError(
        "the catalogue is not at this version's schema",
        where=url.render_as_string(hide_password=True),
        actual=found,
        expected=f"revision {REVISION}",
        remedy="enginekeeper db upgrade",
    )
