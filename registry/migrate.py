"""Brings a catalogue to this version's schema, and says whether it is there.

The migrations lie beside this module in an installed package (`registry/_migrations`), and in
`migrations/` at the top of a checkout. There is no alembic.ini: the address is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import text
from sqlalchemy.engine import Connection

from registry.catalogue import connect, parse_url, revision_of, translated
from registry.errors import CatalogueOutdatedError, StoreUnavailableError
from registry.failures import tables as _failure_tables  # noqa: F401 - its tables are among them
from registry.fleet import tables as _fleet_tables  # noqa: F401 - its tables are among them
from registry.models import Row
from registry.timing import tables as _timing_tables  # noqa: F401 - its tables are among them
from registry.waves import tables as _wave_tables  # noqa: F401 - its tables are among them


def upgrade(url: str, revision: str = "head") -> str:
    """Migrates a catalogue, which is created if it is a missing SQLite file; returns its revision.

    A migration that fails leaves the catalogue as it was before that migration.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(Path(str(parsed.database)).parent)
    return _migrate(url, revision, down=False)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(
            f"the catalogue's folder cannot be made: {error.strerror}",
            where=str(folder),
            remedy="name a catalogue in a directory you may write to",
        ) from error


def downgrade(url: str, revision: str) -> str:
    """Undoes migrations down to a revision (`base` is an empty catalogue); returns where it is."""
    return _migrate(url, revision, down=True)


def current(url: str) -> str | None:
    """Returns the revision a catalogue is at, or None if it was never migrated."""
    with _connected(url) as connection:
        return revision_of(connection)


def head() -> str:
    """Returns the newest revision; there is exactly one."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise AssertionError("no migrations were shipped with the package")
    return revision


def knows(revision: str) -> bool:
    """Says whether this version can work with a catalogue of a revision, or migrate it."""
    script = ScriptDirectory.from_config(_config())
    return revision in {one.revision for one in script.walk_revisions()}


def check(url: str) -> None:
    """Raises CatalogueOutdatedError unless the catalogue has exactly this version's schema."""
    with _connected(url) as connection:
        found = revision_of(connection)
        if found != head():
            raise CatalogueOutdatedError(
                "the catalogue is not at this version's schema",
                where=connection.engine.url.render_as_string(),
                actual=f"revision {found or 'none'}",
                expected=f"revision {head()}",
                remedy="enginekeeper db upgrade",
            )
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Row.metadata)
    if differences:
        raise CatalogueOutdatedError(
            "the catalogue's tables are not those of its revision",
            actual="; ".join(str(difference) for difference in differences[:5]),
            expected="no difference",
            remedy="restore the catalogue from a backup, or report a defect of the migration",
        )


def _migrate(url: str, revision: str, *, down: bool) -> str:
    with _connected(url) as connection:
        config = _config()
        config.attributes["connection"] = connection
        try:
            (command.downgrade if down else command.upgrade)(config, revision)
        except CommandError as error:
            raise CatalogueOutdatedError(
                f"the catalogue cannot be migrated: {error}",
                where=connection.engine.url.render_as_string(),
                actual=f"revision {revision_of(connection) or 'none'}",
                expected=f"a revision this version knows, up to {head()}",
                remedy="use a version of Enginekeeper at least as new as the catalogue",
            ) from error
        _check_foreign_keys(connection)
        connection.commit()
        return revision_of(connection) or "base"


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    parsed = parse_url(url)
    # SQLite changes a table by copying it, which its foreign keys would not survive.
    engine = connect(parsed, foreign_keys=False)
    try:
        with translated(parsed.render_as_string()), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _check_foreign_keys(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.execute(text("PRAGMA foreign_key_check")).all()
    if broken:
        connection.rollback()
        raise StoreUnavailableError(
            "the migration would have left rows that point nowhere; it was not kept",
            where=connection.engine.url.render_as_string(),
            actual=[str(row) for row in broken[:5]],
            remedy="report a defect of the migration",
        )


def _config() -> Config:
    config = Config()
    # ConfigParser gives `%` a meaning; a path has none for it.
    config.set_main_option("script_location", str(_location()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _location() -> Path:
    beside = Path(__file__).parent / "_migrations"
    return beside if beside.is_dir() else Path(__file__).parents[1] / "migrations"
