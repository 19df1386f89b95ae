"""Hashes of big files, kept as long as nothing about the files changes, and checked slowly.

Rules:

- a file whose size, times and inode are those that were hashed has the hash of then;
- one that changed just before it was hashed is hashed again next time: the clock of a file system
  is too coarse to tell (git calls such entries racily clean);
- behind that, every file is read again, some bytes at a time, the one that waited longest first:
  what a disk forgot shows in days and not never.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.fleet.node_files import write_whole
from registry.digests import Digest
from registry.errors import InvalidRecordError
from registry.manifests import size_and_digest

_RACY_SECONDS = 2.0  # FAT's times are that coarse; ext4's and XFS's are ticks of the kernel
_PIECE = 1024 * 1024
_SCHEMA = 1


@dataclass(frozen=True)
class _Print:
    """By what a file is known not to have changed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Print:
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)

    def is_racy(self, now: float) -> bool:
        """Says whether a change right now could look the same."""
        return now - max(self.mtime_ns, self.ctime_ns) / 1e9 < _RACY_SECONDS


@dataclass(frozen=True)
class _Entry:
    print: _Print
    digest: Digest
    read_at: float
    """Seconds since the epoch."""


class _Reading:
    """A file that is being read again, a piece in every round."""

    def __init__(self, path: Path, entry: _Entry) -> None:
        self.path = path
        self.entry = entry
        self._hash = hashlib.sha256()
        self._done = 0

    def go_on(self, handle: BinaryIO, budget: int) -> int:
        """Reads so many bytes at most, and returns how many it read."""
        handle.seek(self._done)
        before = self._done
        while self._done - before < budget and (piece := handle.read(_PIECE)):
            self._hash.update(piece)
            self._done += len(piece)
        return self._done - before

    @property
    def is_done(self) -> bool:
        return self._done >= self.entry.print.size

    @property
    def digest(self) -> Digest:
        return Digest("sha256", self._hash.hexdigest())


class KeptHashes:
    """Answers as hashing would; keeps its answers in a file, so that a restart costs nothing."""

    def __init__(self, file: Path, *, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        self._known = _read(file)
        self._asked: set[Path] = set()
        self._reading: _Reading | None = None
        self._changed = False

    def __call__(self, path: Path) -> tuple[int, Digest]:
        """Returns size and digest of a file; raises OSError where it cannot be read."""
        found = _Print.of(path.lstat())
        known = self._known.get(path)
        self._asked.add(path)
        if known is not None and known.print == found:
            return found.size, known.digest
        size, digest = size_and_digest(path)
        if _Print.of(path.lstat()) == found and not found.is_racy(self._now()):
            self._known[path] = _Entry(found, digest, self._now())
            self._changed = True
        return size, digest

    def end_round(self, budget: int) -> None:
        """Reads so many bytes of what was asked for again, and keeps what is known now.

        Files that nobody asked for since the last time are forgotten.
        """
        for path in self._known.keys() - self._asked:
            del self._known[path]
            self._changed = True
        self._asked = set()
        while budget > 0 and (step := self._read_again(budget)):
            budget -= step
        if self._changed:
            write_whole(self._file, json.dumps(_document(self._known)), mode=0o600)
            self._changed = False

    def _read_again(self, budget: int) -> int:
        """Goes on with one file and returns how many bytes that cost; 0 where nothing is due."""
        reading = self._reading or self._oldest()
        if reading is None or self._known.get(reading.path) != reading.entry:
            self._reading = None  # it was hashed since, or is gone
            return 0
        try:
            with reading.path.open("rb") as handle:
                if _Print.of(os.fstat(handle.fileno())) != reading.entry.print:
                    self._reading = None  # changed by now: the next round hashes it
                    return 0
                cost = reading.go_on(handle, budget)
        except OSError:
            del self._known[reading.path]  # the next round tells
            self._reading, self._changed = None, True
            return 0
        self._reading = None if reading.is_done or cost == 0 else reading
        if self._reading is None:
            now = self._now()
            self._known[reading.path] = replace(reading.entry, digest=reading.digest, read_at=now)
            self._changed = True
        return cost

    def _oldest(self) -> _Reading | None:
        """Returns the file that waited longest; None where all were read a moment ago."""
        path, entry = min(self._known.items(), key=lambda one: one[1].read_at, default=(None, None))
        if path is None or entry is None or self._now() - entry.read_at < _REST:
            return None
        return _Reading(path, entry)


_REST = 3600.0
"""Seconds that a file is left alone after it was read."""


def _document(known: dict[Path, _Entry]) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "files": {
            # as text: nanoseconds since 1970 have more digits than JSON's readers keep
            str(path): [*map(str, vars(entry.print).values()), str(entry.digest), entry.read_at]
            for path, entry in known.items()
        },
    }


def _read(file: Path) -> dict[Path, _Entry]:
    """Returns what was kept; nothing where it is another version's or damaged: it is made anew."""
    try:
        document = read_json_object(file)
        if document.get("schema") != _SCHEMA:
            return {}
        return {
            Path(path): _Entry(_Print(*map(int, values[:5])), Digest.parse(values[5]), values[6])
            for path, values in document["files"].items()
        }
    except (InputError, InvalidRecordError, KeyError, TypeError, ValueError, IndexError,
            AttributeError):  # fmt: skip
        return {}
