"""What is written beside a backup, so that it can be held against it: digest, revision, rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, inspect, select, table
from sqlalchemy.engine import Connection

from registry.catalogue import revision_of
from registry.digests import Digest, digest_file
from registry.documents import check_schema, read_object
from registry.errors import IntegrityError, InvalidRecordError, RecordNotFoundError
from registry.files import write_whole

SCHEMA = 1
VERSIONS = "alembic_version"
RESTORATIONS = "restorations"
MARK = f"INSERT INTO {RESTORATIONS} DEFAULT VALUES"
"""Notes in a restored catalogue that it was, where its revision has a place for that."""


@dataclass(frozen=True)
class Content:
    """What a catalogue holds, in numbers."""

    revision: str
    rows: Mapping[str, int]
    """How many rows each table has."""

    @classmethod
    def of(cls, connection: Connection) -> Content:
        """Counts every table of a catalogue; raises InvalidRecordError where there is none."""
        revision = revision_of(connection)
        if revision is None:
            raise InvalidRecordError(
                "there is no catalogue in this database",
                where=connection.engine.url.render_as_string(),
                remedy="enginekeeper db upgrade makes one",
            )
        names = sorted(set(inspect(connection).get_table_names()) - {VERSIONS})
        counts = {
            name: int(connection.scalar(select(func.count()).select_from(table(name))) or 0)
            for name in names
        }
        return cls(revision, counts)

    @property
    def has_marks(self) -> bool:
        """Says whether a catalogue of this revision can say that it was restored."""
        return RESTORATIONS in self.rows

    def marked(self) -> Content:
        """Returns what is there after that was noted."""
        if not self.has_marks:
            return self
        return replace(self, rows={**self.rows, RESTORATIONS: self.rows[RESTORATIONS] + 1})


@dataclass(frozen=True)
class BackupRecord:
    """What a backup is a backup of."""

    database: str
    """`sqlite` or `postgresql`: one cannot be restored into the other."""
    content: Content
    digest: Digest
    """Of the backup's bytes."""
    made_at: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the record as a JSON object."""
        return {
            "schema": SCHEMA,
            "database": self.database,
            "revision": self.content.revision,
            "rows": dict(self.content.rows),
            "digest": str(self.digest),
            "made_at": self.made_at,
        }

    def write(self, backup: Path) -> None:
        """Writes the record beside a backup."""
        write_whole(record_path(backup), json.dumps(self.as_dict(), indent=2).encode() + b"\n")

    @classmethod
    def read(cls, backup: Path) -> BackupRecord:
        """Reads the record of a backup and holds it against the backup's bytes.

        Raises RecordNotFoundError, InvalidRecordError, or IntegrityError for other bytes.
        """
        path = record_path(backup)
        for one in (backup, path):
            if not one.is_file():
                raise RecordNotFoundError("there is no such backup", where=str(one))
        record = cls._from(read_object(path.read_bytes(), where=str(path)), str(path))
        actual = digest_file(backup)
        if actual != record.digest:
            raise IntegrityError(
                "the backup is not the one that was made",
                where=str(backup), actual=actual, expected=record.digest,
                remedy="restore another backup",
            )  # fmt: skip
        return record

    @classmethod
    def _from(cls, document: Mapping[str, Any], where: str) -> BackupRecord:
        check_schema(document, SCHEMA, where=where)
        try:
            texts = [document[name] for name in ("revision", "database", "made_at")]
            if not all(isinstance(one, str) for one in texts):
                raise TypeError("revision, database and made_at are texts")  # noqa: TRY301
            revision, database, made_at = texts
            content = Content(revision, dict(document["rows"]))
            return cls(database, content, Digest.parse(document["digest"]), made_at)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRecordError(f"not the record of a backup: {error}", where=where) from error


def record_path(backup: Path) -> Path:
    """Returns where the record of a backup lies."""
    return backup.with_name(f"{backup.name}.json")


def check_content(found: Content, expected: Content, *, where: str) -> None:
    """Raises IntegrityError unless a catalogue holds what its backup's record says."""
    if found != expected:
        names = sorted({*found.rows, *expected.rows})
        wrong = {n for n in names if found.rows.get(n) != expected.rows.get(n)}
        raise IntegrityError(
            "the restored catalogue is not what was backed up",
            where=where,
            actual=f"revision {found.revision}, rows {_of(found, wrong)}",
            expected=f"revision {expected.revision}, rows {_of(expected, wrong)}",
            remedy="do not use it; restore another backup",
        )


def _of(content: Content, names: set[str]) -> dict[str, int | None]:
    return {name: content.rows.get(name) for name in sorted(names)}
