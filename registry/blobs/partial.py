"""Files that grow piece by piece, outlive an interruption, and appear verified or not at all.

Rules:

- bytes are written to `NAME.partial`, in whatever order they come, and hashed from there, in order;
  the file gets its name when it has the digest it was promised, and not before;
- beside it, `NAME.partial.sha256` names the promised digest and then, again and again, how many
  bytes are verified and the SHA-256 of all of them. Whoever goes on hashes what is there against
  these lines and keeps what agrees: a torn write or somebody else's file costs only itself;
- an interruption, or a server that went away, leaves both; wrong bytes or a full disk, nothing;
- one process at a time writes a file; another one that wants to waits.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from registry.blobs.interface import Progress, check_bytes
from registry.digests import Digest
from registry.errors import DiskFullError, IntegrityError, RecordNotFoundError

PIECE = 1024 * 1024
"""Bytes read and hashed at once."""

_WRITTEN = 64 * 1024
"""Bytes written at once. A file system takes as much memory in one piece as one write brings, and
what it gets in large pieces nobody had touched before: on a virtual machine writes of 1 MiB took a
third to twice as much processor time (benchmarks/store_throughput.py, ext4)."""


@dataclass(frozen=True)
class Source:
    """Bytes that are to become a file, and how they are read."""

    digest: Digest
    size: int
    """Bytes."""
    where: str
    fill: Callable[[int, int], Iterable[int]]
    """Writes the bytes to their place in the file of a descriptor, from an offset on; yields,
    again and again, up to where they are there."""


def assemble(source: Source, destination: Path, progress: Progress | None = None) -> None:
    """Writes a source's bytes to a file that appears complete and verified, or not at all.

    Goes on from what an interrupted call left. Raises IntegrityError for other bytes.
    """
    path, journal = leftovers(destination)
    with locked(path) as handle:
        growing = _Growing(handle, journal, source)
        try:
            growing.go_on()
            for end in source.fill(handle.fileno(), growing.done):
                growing.verify(end)
                if progress is not None:
                    progress(destination.name, growing.done, source.size)
            growing.seal()
            path.replace(destination)
        except (DiskFullError, IntegrityError, RecordNotFoundError, OSError):
            journal.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        except BaseException:
            if not journal.exists():  # then there is nothing worth going on with
                path.unlink(missing_ok=True)
            raise


def leftovers(destination: Path) -> tuple[Path, Path]:
    """Returns where the bytes lie that a file has so far, and where the journal of them."""
    path = destination.with_name(f"{destination.name}.partial")
    return path, path.with_name(f"{path.name}.sha256")


def write_at(descriptor: int, offset: int, data: bytes) -> int:
    """Writes all of some bytes to their place in a file; returns how many they are."""
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done : done + _WRITTEN], offset + done)
    return done


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """Opens a file, made if need be, for one process at a time; waits while another has it."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o666), "r+b") as handle:  # noqa: PTH123 - from a descriptor
            fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel if we die
            if _is_still(path, handle):
                yield handle
                return


def _is_still(path: Path, handle: BinaryIO) -> bool:
    """Says whether a path names the open file: whoever had it before may have moved it away."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


class _Growing:
    """The open partial file, the hash of what is in it, and its journal."""

    def __init__(self, handle: BinaryIO, journal: Path, source: Source) -> None:
        self._handle = handle
        self._journal = journal
        self._source = source
        self._hasher = hashlib.sha256()
        self._buffer = memoryview(bytearray(PIECE))
        self.done = 0

    def verify(self, end: int) -> None:
        """Hashes up to where the file is there; notes it in the journal, unless that is the end."""
        begin = self.done
        self._hash(end)
        _begin_writing_back(self._handle.fileno(), begin, self.done - begin)
        if self.done < self._source.size:
            with self._journal.open("a") as journal:
                if journal.tell() == 0:
                    journal.write(f"{self._source.digest}\n")
                journal.write(f"{self.done} {self._hasher.hexdigest()}\n")

    def seal(self) -> None:
        """Makes sure that the file is what was promised, and on the disk."""
        actual = Digest("sha256", self._hasher.hexdigest())
        check_bytes(actual, self._source.digest, where=self._source.where)
        os.fsync(self._handle.fileno())
        self._journal.unlink(missing_ok=True)

    def go_on(self) -> None:
        """Takes over what is there as far as it agrees with the journal; cuts off the rest."""
        kept = 0
        lines = self._lines()
        if lines[:1] == [str(self._source.digest)]:
            kept = 1 + sum(1 for _ in takewhile(self._agrees, lines[1:]))
        self._handle.truncate(self.done)
        _require_room(self._handle.fileno(), self._source.size - self.done)
        if kept > 1:
            self._journal.write_text("".join(f"{line}\n" for line in lines[:kept]))
        else:
            self._journal.unlink(missing_ok=True)

    def _agrees(self, line: str) -> bool:
        """Hashes on to the end that a line names; keeps the bytes if they are those it names."""
        before = self._hasher.copy(), self.done
        named, _, digest = line.partition(" ")
        self._hash(min(int(named) if named.isdecimal() else 0, self._source.size - 1))
        if self._hasher.hexdigest() == digest and str(self.done) == named and self.done > before[1]:
            return True
        self._hasher, self.done = before
        return False

    def _hash(self, end: int) -> None:
        """Hashes what the file has up to an end; it may have less."""
        while self.done < end:
            view = self._buffer[: min(PIECE, end - self.done)]
            count = os.preadv(self._handle.fileno(), [view], self.done)
            if count == 0:
                return
            self._hasher.update(view[:count])
            self.done += count

    def _lines(self) -> list[str]:
        try:
            return self._journal.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []


def _require_room(descriptor: int, count: int) -> None:
    """Raises what a full disk raises, before it is full: where there is less room than is needed.

    Room is not reserved: writing into what was reserved took ext4 half as much processor time
    again as writing into what was not.
    """
    disk = os.fstatvfs(descriptor)
    if disk.f_bavail * disk.f_frsize < count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _begin_writing_back(descriptor: int, begin: int, count: int) -> None:
    """Lets the kernel begin to write what it still holds in memory, and waits for nothing.

    Otherwise gigabytes wait for the `fsync` at the end, and the disk idles until then. The advice
    is meant to drop pages; those not written yet are only sent on their way.
    """
    os.posix_fadvise(descriptor, begin, count, os.POSIX_FADV_DONTNEED)
