"""Which processes were started with which engine: a record for each, written before it runs.

`run-check` writes it for its own process, which then becomes the command. Pid, start time and
boot id together name that process; a record whose process has ended says nothing any more, and
goes when the next one is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.node_files import documents_in, write_whole
from enginekeeper.fleet.processes import ProcessTable
from registry.digests import Digest, digest_bytes
from registry.errors import InvalidRecordError

_LONGEST_IMAGE = 500


@dataclass(frozen=True)
class RunRecord:
    """A process that was started to run an engine."""

    pid: int
    """Its number where the record was written: in a container, that of the container."""
    start_time: int
    """Clock ticks since the boot, field 22 of proc(5)."""
    boot_id: str
    engine: Digest
    path: Path
    started_at: datetime
    pid_namespace: str | None
    """Where its number counts."""
    file: Path
    endpoint: str | None = None
    """Where its server answers, as its start named it."""
    image: str | None = None
    """The container image it runs in, by whoever started it; None where nobody said."""


def record_run(
    home: Path, engine: Digest, path: Path, *,
    pid: int | None = None, processes: ProcessTable | None = None, endpoint: str | None = None,
    image: str | None = None,
) -> Path:  # fmt: skip
    """Records that a process, this one by default, runs an engine; returns the record's file.

    Raises UnavailableError for a process that is not there, InputError for what is no image.
    """
    if image is not None and not (image.isprintable() and len(image) <= _LONGEST_IMAGE):
        raise InputError(
            "not the name of a container image", where="ENGINEKEEPER_CONTAINER_IMAGE",
            actual=ascii(image)[:200], expected=f"at most {_LONGEST_IMAGE} printable characters",
        )  # fmt: skip
    table, number = processes or ProcessTable(), os.getpid() if pid is None else pid
    started, boot = table.start_time(number), table.boot_id()
    if started is None or boot is None:
        raise UnavailableError(
            "it cannot be said which process is to run the engine",
            where=f"{table.root}/{number}", actual=f"start time {started}, boot id {boot}",
        )  # fmt: skip
    _forget_ended(home, table)
    document = {
        "pid": number,
        "start_time": started,
        "boot_id": boot,
        "engine": str(engine),
        "path": str(path),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid_namespace": table.namespace(number),
        "endpoint": endpoint,
        "image": image,
    }
    name = f"{digest_bytes(f'{boot} {started} {number} {path}'.encode()).short}.json"
    write_whole(home / "runs" / name, json.dumps(document, indent=2))
    return home / "runs" / name


def run_records(home: Path) -> Iterator[RunRecord]:
    """Yields every record, by the names of their files.

    Raises InputError for one that is none, and where they cannot be listed.
    """
    for file in documents_in(home / "runs"):
        try:
            record = _read(file)
        except InputError:
            if not file.exists():
                continue  # its process ended, and another one cleaned up
            raise
        yield record


def live_pid(record: RunRecord, table: ProcessTable) -> int | None:
    """Returns the number, seen from here, of the process that a record is about.

    None once it ended, whoever has its number now; and after another boot.
    """
    if record.boot_id != table.boot_id():
        return None
    if _is_it(record, record.pid, table):
        return record.pid
    if record.pid_namespace in (None, table.namespace()):
        return None
    return next(
        (pid for pid in table.all()
         if _is_it(record, pid, table) and table.inner_pid(pid) == record.pid), None,
    )  # fmt: skip


def _is_it(record: RunRecord, pid: int, table: ProcessTable) -> bool:
    """Says whether a process started when the record's did, where it did if that can be read."""
    if table.start_time(pid) != record.start_time:
        return False
    namespace = table.namespace(pid)
    return record.pid_namespace is None or namespace in (None, record.pid_namespace)


def _read(file: Path) -> RunRecord:
    try:
        document = read_json_object(file)
        return RunRecord(
            _number(document["pid"]),
            _number(document["start_time"]),
            _text(document["boot_id"]),
            Digest.parse(document["engine"]),
            Path(document["path"]),
            datetime.fromisoformat(document["started_at"]),
            _optional(document.get("pid_namespace")),
            file,
            _optional(document.get("endpoint")),
            _optional(document.get("image")),
        )
    except (
        InputError, InvalidRecordError, ValueError, KeyError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        raise InputError(
            f"the run record cannot be read: {error}", where=str(file),
            remedy="remove the file; its process goes on, and is known again when it restarts",
        ) from error  # fmt: skip


def _forget_ended(home: Path, table: ProcessTable) -> None:
    """Removes the records of processes that ended; one of another container is left to its own."""
    for file in (home / "runs").glob("*.json"):
        try:
            record = _read(file)
        except InputError:
            continue  # the agent tells of it
        elsewhere = record.pid_namespace not in (None, table.namespace())
        if record.boot_id != table.boot_id() or (not elsewhere and live_pid(record, table) is None):
            file.unlink(missing_ok=True)


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} where a number is expected")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where text is expected")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)
