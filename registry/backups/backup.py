"""Backs a catalogue up and restores it.

Rules:

- a backup is one state of the catalogue, made while it is used; beside it lies a record with its
  digest, its revision and how many rows each table has;
- nothing that is there is overwritten unless the caller says so, neither backup nor catalogue;
- what is restored is verified before (its bytes) and after (every page, every count);
- a catalogue is restored whole or left as it was.

Example:
    backup("sqlite:////var/lib/enginekeeper/catalogue.sqlite", Path("catalogue.backup"))
    restore(Path("catalogue.backup"), "sqlite:////tmp/copy.sqlite", overwrite=False)
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import URL

from registry import migrate
from registry.backups import postgresql, sqlite
from registry.backups.record import BackupRecord, record_path
from registry.blobs.interface import disk_errors
from registry.catalogue import parse_url
from registry.digests import digest_file
from registry.errors import (
    CatalogueOutdatedError,
    ConflictError,
    InvalidRecordError,
    RecordNotFoundError,
)

_KINDS = {"sqlite": sqlite, "postgresql": postgresql}


def backup(url: str, target: Path) -> BackupRecord:
    """Writes a backup of a catalogue and its record; both appear whole or not at all.

    Raises ConflictError where there is a file, StoreUnavailableError without `pg_dump`.
    """
    parsed, kind = _parsed(url)
    if kind == "sqlite" and sqlite.is_empty(parsed):
        raise RecordNotFoundError("there is no catalogue to back up", where=str(parsed.database))
    for path in (target, record_path(target)):
        if path.exists():
            raise ConflictError(
                "there is a file already", where=str(path), remedy="name a new file for a backup"
            )
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = _KINDS[kind].copy_out(parsed, draft)
            made_at = datetime.now(UTC).isoformat(timespec="seconds")
            record = BackupRecord(kind, content, digest_file(draft), made_at)
            _flush(draft)
            record.write(target)
            draft.rename(target)
        finally:
            draft.unlink(missing_ok=True)
    return record


def restore(source: Path, url: str, *, overwrite: bool, dry_run: bool = False) -> BackupRecord:
    """Puts a backup back and verifies it; returns its record.

    Raises ConflictError where there is a catalogue and `overwrite` is not given, IntegrityError
    when the backup or what became of it is not what was backed up.
    """
    parsed, kind = _parsed(url)
    record = BackupRecord.read(source)
    if record.database != kind:
        raise InvalidRecordError(
            "a backup of one kind of database cannot be restored into another",
            where=str(source), actual=record.database, expected=kind,
        )  # fmt: skip
    if not migrate.knows(record.content.revision):
        raise CatalogueOutdatedError(
            "the backup is of a newer version's catalogue",
            where=str(source),
            actual=f"revision {record.content.revision}",
            expected=f"a revision this version knows, up to {migrate.head()}",
            remedy="use a version of Enginekeeper at least as new as the backup",
        )
    if not overwrite and not dry_run and not _KINDS[kind].is_empty(parsed):
        raise ConflictError(
            "there is a catalogue already, and restoring would replace it",
            where=parsed.render_as_string(),
            remedy="back it up first, then restore with --yes",
        )
    if not dry_run:
        with disk_errors(source):
            _KINDS[kind].copy_in(source, parsed, record.content)
    return record


def _parsed(url: str) -> tuple[URL, str]:
    parsed = parse_url(url)
    return parsed, parsed.get_backend_name()


def _flush(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())
