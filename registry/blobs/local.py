"""The artifact store in a local directory: the same guarantees as on S3, from the file system.

A file is written under a temporary name, flushed to the disk, and linked to its final name,
which fails if the name is taken: created once, complete or absent. What a killed process left
behind is removed by the next one that writes, once nobody holds its lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.blobs.interface import BLOB_ROOT, MAX_DOCUMENT, blob_name, check_bytes, disk_error
from registry.digests import Digest, digest_bytes, digest_file
from registry.errors import ConflictError, RecordNotFoundError
from registry.names import check_path

_PIECE = 1024 * 1024  # bytes; larger pieces copy no faster and cost memory
_DRAFTS = "tmp"
_YOUNG = 60.0  # seconds in which a draft may exist without its lock: it is being made


@dataclass(frozen=True)
class _Draft:
    path: Path
    handle: BinaryIO


class LocalBlobStore:
    """Blobs and documents below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        with _translated(self._root):
            (self._root / _DRAFTS).mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """The store's own address."""
        return self._root.as_uri()

    def put_file(self, path: Path, *, expected: Digest | None = None) -> Digest:
        """Stores a file's bytes and returns their digest; copies nothing when they are there."""
        with _translated(path):
            digest = digest_file(path) if expected is None else expected
            if self.exists(digest):
                check_bytes(digest_file(path), digest, where=str(path))
                return digest
            with path.open("rb") as source, self._draft() as draft:
                check_bytes(_copy(source, draft.handle), digest, where=str(path))
                self._link(draft, blob_name(digest))  # taken by now: then by the same bytes
        return digest

    def fetch(self, digest: Digest, destination: Path) -> None:
        """Writes a blob to a file that appears complete and verified, or not at all."""
        blob = self._root / blob_name(digest)
        partial = destination.with_name(destination.name + ".partial")
        with _opened(blob, str(digest)) as source, _translated(destination):
            try:
                with partial.open("wb") as target:
                    check_bytes(_copy(source, target), digest, where=str(blob))
                    _flush(target)
                partial.replace(destination)
            finally:
                partial.unlink(missing_ok=True)

    def exists(self, digest: Digest) -> bool:
        """Says whether the blob is there."""
        return (self._root / blob_name(digest)).is_file()

    def put_document(self, name: str, data: bytes, *, if_absent: bool = True) -> bool:
        """Writes a named document and says whether it was not there before with these bytes."""
        final = self._root / check_path(name, where="document")
        with self._draft() as draft:
            draft.handle.write(data)
            if if_absent and self._link(draft, name):
                return True
            found = final.read_bytes() if final.is_file() else None
            if not if_absent:
                self._replace(draft, name)
                return found != data
        if found != data:
            raise ConflictError(
                "the document exists with other bytes",
                where=str(final),
                actual=None if found is None else digest_bytes(found),
                expected=digest_bytes(data),
            )
        return False

    def get_document(self, name: str) -> bytes:
        """Returns a named document."""
        path = self._root / check_path(name, where="document")
        with _opened(path, name) as handle:
            return handle.read(MAX_DOCUMENT)

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

    @contextmanager
    def _draft(self) -> Iterator[_Draft]:
        """Gives a locked temporary file on the store's own disk; it is gone when the block ends."""
        with _translated(self._root):
            self._sweep()
            descriptor, name = tempfile.mkstemp(dir=self._root / _DRAFTS)
            try:
                with open(descriptor, "wb") as handle:  # noqa: PTH123 - from a descriptor
                    fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel if we die
                    yield _Draft(Path(name), handle)
            finally:
                Path(name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        for path in (self._root / _DRAFTS).iterdir():
            try:
                with path.open("rb") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if time.time() - path.stat().st_mtime > _YOUNG:
                        path.unlink(missing_ok=True)
            except OSError:
                continue

    def _link(self, draft: _Draft, name: str) -> bool:
        """Gives a draft its final name; False when the name is taken."""
        final = self._root / name
        self._seal(draft, final.parent)
        try:
            os.link(draft.path, final)
        except FileExistsError:
            return False
        _flush_directory(final.parent)
        return True

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


def _copy(source: BinaryIO, target: BinaryIO) -> Digest:
    """Copies a stream and returns the digest of the very bytes that were written."""
    hasher = hashlib.sha256()
    while piece := source.read(_PIECE):
        hasher.update(piece)
        target.write(piece)
    return Digest("sha256", hasher.hexdigest())


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


@contextmanager
def _translated(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, where) from error
