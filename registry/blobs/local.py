"""The artifact store in a local directory: the same guarantees as on S3, from the file system.

A file is written under a temporary name, flushed to the disk, and linked to its final name,
which fails if the name is taken: created once, complete or absent. What a killed process left
behind is removed by the next one that writes, once nobody holds its lock. A copy that was
interrupted on the way in begins anew: it takes seconds, and its draft is gone with the process.
Who only reads makes nothing, not even the directory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from registry.blobs.interface import (
    BLOB_ROOT,
    MAX_DOCUMENT,
    RANGE,
    Document,
    Feature,
    Progress,
    Stored,
    blob_name,
    check_bytes,
    check_whole,
    disk_error,
    disk_errors,
    document_conflict,
    require,
)
from registry.blobs.partial import PIECE, Source, assemble, locked, write_at
from registry.digests import Digest, digest_bytes, digest_file
from registry.disks import is_full
from registry.errors import RecordNotFoundError
from registry.names import check_path

_DRAFTS = "tmp"
_YOUNG = timedelta(seconds=60)  # a draft may exist without its lock: it is being made


@dataclass(frozen=True)
class _Draft:
    path: Path
    handle: BinaryIO


class LocalBlobStore:
    """Blobs and documents below one directory; one that is not there yet holds nothing.

    Raises StoreUnavailableError if something else is in its place.
    """

    def __init__(self, root: Path, *, progress: Progress | None = None) -> None:
        self._root = root.absolute()
        self._progress = progress
        if self._root.exists() and not self._root.is_dir():
            raise disk_error(NotADirectoryError(errno.ENOTDIR, "not a directory"), self._root)

    @property
    def url(self) -> str:
        """The store's own address."""
        return self._root.as_uri()

    @property
    def origin(self) -> str:
        """Names the directory, whichever link or `..` led to it."""
        return self._root.resolve().as_uri()

    def put_file(self, path: Path, *, expected: Digest | None = None) -> Digest:
        """Stores a file's bytes and returns their digest; copies nothing when they are there."""
        with disk_errors(path):
            digest = digest_file(path) if expected is None else expected
            if self.exists(digest):
                check_bytes(digest_file(path), digest, where=str(path))
                return digest
            require(self._checked, self.url)
            with path.open("rb") as source, self._draft() as draft:
                check_bytes(self._copy(path, source, draft.handle), digest, where=str(path))
                self._link(draft, blob_name(digest))  # taken by now: then by the same bytes
        return digest

    def replace_file(self, path: Path, digest: Digest) -> None:
        """Puts good bytes in the place of a damaged blob, which is there until they are."""
        require(self._checked, self.url)
        with disk_errors(path), path.open("rb") as source, self._draft() as draft:
            check_bytes(self._copy(path, source, draft.handle), digest, where=str(path))
            self._replace(draft, blob_name(digest))

    def fetch(self, digest: Digest, destination: Path) -> None:
        """Writes a blob to a file that appears complete and verified, or not at all."""
        blob = self._root / blob_name(digest)
        with _opened(blob, str(digest)) as handle, disk_errors(destination):
            size = os.fstat(handle.fileno()).st_size

            def fill(descriptor: int, start: int) -> Iterator[int]:
                handle.seek(start)
                for begin in range(start, size, RANGE):
                    end = begin
                    while end < begin + RANGE and (piece := handle.read(PIECE)):
                        end += write_at(descriptor, end, piece)
                    yield end

            assemble(Source(digest, size, str(blob), fill), destination, self._progress)

    def exists(self, digest: Digest) -> bool:
        """Says whether the blob is there."""
        return (self._root / blob_name(digest)).is_file()

    def is_damaged(self, digest: Digest) -> bool:
        """Reads a blob that is there and says whether its bytes are not those of its name."""
        blob = self._root / blob_name(digest)
        with disk_errors(blob):
            return digest_file(blob) != digest

    def remove(self, digest: Digest) -> None:
        """Removes a blob; nothing if it is not there."""
        blob = self._root / blob_name(digest)
        with disk_errors(blob):
            blob.unlink(missing_ok=True)

    def put_document(
        self, name: str, data: bytes, *, if_absent: bool = True, if_match: str | None = None
    ) -> bool:
        """Writes a named document and says whether it was not there before with these bytes."""
        final = self._root / check_path(name, where="document")
        with self._new_version() as draft:
            draft.handle.write(data)
            found = _read(final)
            if found == data:
                return False
            if if_match is not None:
                free = found is not None and _version(found) == if_match
            else:
                free = found is None or not if_absent
            if not free:
                expected = f"version {if_match}" if if_match is not None else _version(data)
                raise document_conflict(str(final), found, expected=expected)
            self._replace(draft, name)
        return True

    def get_document(self, name: str) -> bytes:
        """Returns a named document's bytes."""
        return self.read_document(name).data

    def read_document(self, name: str) -> Document:
        """Returns a named document with its version, which is the digest of its bytes."""
        path = self._root / check_path(name, where="document")
        with _opened(path, name) as handle:
            data = check_whole(handle.read(MAX_DOCUMENT + 1), where=str(path))
        return Document(data, _version(data))

    def list_documents(self, prefix: str = "") -> Iterator[str]:
        """Yields the names of documents that start with a prefix, in order; never blobs."""
        start = self._root / prefix.rpartition("/")[0]
        hidden = (self._root / BLOB_ROOT, self._root / _DRAFTS)
        names = []
        for directory, folders, files in os.walk(start):
            here = Path(directory)
            folders[:] = [name for name in folders if here / name not in hidden]
            names += [(here / name).relative_to(self._root).as_posix() for name in files]
        yield from sorted(name for name in names if name.startswith(prefix))

    def remove_document(self, name: str) -> None:
        """Removes a named document; nothing if it is not there."""
        path = self._root / check_path(name, where="document")
        with disk_errors(path):
            path.unlink(missing_ok=True)

    def stored(self, prefix: str) -> Iterator[Stored]:
        """Yields what lies below a folder, with its age by this host's clock."""
        now = time.time()
        for directory, _, files in os.walk(self._root / check_path(prefix, where="folder")):
            for path in (Path(directory, name) for name in files):
                with suppress(FileNotFoundError):  # somebody else removed it
                    found = path.lstat()
                    age = timedelta(seconds=now - found.st_mtime)
                    yield Stored(path.relative_to(self._root).as_posix(), found.st_size, age)

    def probe(self) -> tuple[Feature, ...]:
        """Finds out, by trying, what the file system supports."""
        with self._draft() as draft:
            return _features(draft.path)

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Removes drafts that nobody holds and nobody touched for that long."""
        drafts, swept = self._root / _DRAFTS, []
        for path in sorted(drafts.iterdir()) if drafts.is_dir() else ():
            try:
                with path.open("rb") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if time.time() - path.stat().st_mtime <= older_than.total_seconds():
                        continue
                    if not dry_run:
                        path.unlink(missing_ok=True)
            except OSError:  # held, or gone by now
                continue
            swept.append(f"{_DRAFTS}/{path.name}")
        return swept

    @contextmanager
    def _draft(self) -> Iterator[_Draft]:
        """Gives a locked temporary file on the store's own disk; it is gone when the block ends."""
        with disk_errors(self._root):
            _make_directory(self._root / _DRAFTS)
            self.sweep(_YOUNG)
            descriptor, name = tempfile.mkstemp(dir=self._root / _DRAFTS)
            try:
                with open(descriptor, "wb") as handle:  # noqa: PTH123 - from a descriptor
                    fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel if we die
                    yield _Draft(Path(name), handle)
            finally:
                Path(name).unlink(missing_ok=True)

    @contextmanager
    def _new_version(self) -> Iterator[_Draft]:
        """Gives a draft that may replace a document: nobody else does until the block ends."""
        require(self._checked, self.url)
        with self._draft() as draft:
            lock = self._root / _DRAFTS / "moving"
            with locked(lock):
                try:
                    yield draft
                finally:
                    lock.unlink(missing_ok=True)

    @cached_property
    def _checked(self) -> tuple[Feature, ...]:
        return self.probe()

    def _copy(self, path: Path, source: BinaryIO, target: BinaryIO) -> Digest:
        """Copies a stream and returns the digest of the very bytes that were written."""
        hasher, done = hashlib.sha256(), 0
        size = os.fstat(source.fileno()).st_size
        while piece := source.read(PIECE):
            hasher.update(piece)
            target.write(piece)
            done += len(piece)
            if self._progress is not None:
                self._progress(path.name, done, size)
        return Digest("sha256", hasher.hexdigest())

    def _link(self, draft: _Draft, name: str) -> None:
        """Gives a draft its final name, unless that is taken."""
        final = self._root / name
        self._seal(draft, final.parent)
        with suppress(FileExistsError):
            os.link(draft.path, final)
            _flush_directory(final.parent)

    def _replace(self, draft: _Draft, name: str) -> None:
        final = self._root / name
        self._seal(draft, final.parent)
        draft.path.replace(final)
        _flush_directory(final.parent)

    @staticmethod
    def _seal(draft: _Draft, parent: Path) -> None:
        _flush(draft.handle)
        draft.path.chmod(0o444)
        _make_directory(parent)


def _features(path: Path) -> tuple[Feature, ...]:
    """Tries what a file's file system supports; the file is locked already."""
    return (
        Feature(
            "hard links that take no name twice",
            _refuses_to_link_twice(path),
            required=True,
            otherwise="a blob that is there could be overwritten",
        ),
        Feature(
            "file locks",
            _refuses_to_lock_twice(path),
            required=True,
            otherwise="of two who write one document at once one could overwrite the other",
        ),
    )


def _refuses_to_link_twice(path: Path) -> bool:
    link = path.with_name(path.name + ".link")
    try:
        os.link(path, link)
        os.link(path, link)
    except FileExistsError:
        return True
    except OSError as error:
        if is_full(error):
            raise  # says nothing of what the file system supports
        return False
    finally:
        link.unlink(missing_ok=True)
    return False


def _refuses_to_lock_twice(path: Path) -> bool:
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _version(data: bytes) -> str:
    return str(digest_bytes(data))


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _flush(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _make_directory(path: Path) -> None:
    """Creates a directory whose name survives a power cut, and its parents likewise."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        handle = path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise RecordNotFoundError("not in the artifact store", where=name) from None
    except OSError as error:
        raise disk_error(error, path) from error
    with handle:
        yield handle
