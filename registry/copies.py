"""Other copies of what a store should hold: another store, or a directory that somebody kept.

A copy is asked for bytes by their digest and gives those or none: it may hold anything.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from registry import layout
from registry.blobs.interface import BlobStore, disk_error
from registry.digests import Digest, digest_bytes, digest_file
from registry.errors import IntegrityError, InvalidRecordError, RecordNotFoundError
from registry.manifests import FileEntry, Manifest


class Copy(Protocol):
    """Something that may hold the bytes that are looked for."""

    def blob(self, entry: FileEntry, scratch: Path) -> Path | None:
        """Returns a file with exactly these bytes, in the scratch directory or elsewhere."""
        ...

    def document(self, name: str, digest: Digest) -> bytes | None:
        """Returns the document of a name if it has this digest."""
        ...

    def manifest(
        self, folder: str, digest: Digest, *, kind: str, key: Digest | None, simulated: bool
    ) -> bytes | None:
        """Returns the manifest of an artifact."""
        ...


@dataclass(frozen=True)
class StoreCopy:
    """Another artifact store, with the same layout."""

    store: BlobStore

    def blob(self, entry: FileEntry, scratch: Path) -> Path | None:
        """Fetches a blob, verified on the way."""
        try:
            self.store.fetch(entry.digest, scratch / "blob")
        except (RecordNotFoundError, IntegrityError):
            return None
        return scratch / "blob"

    def document(self, name: str, digest: Digest) -> bytes | None:
        """Reads a document if it is the one that is looked for."""
        try:
            data = self.store.get_document(name)
        except (RecordNotFoundError, IntegrityError):
            return None
        return data if digest_bytes(data) == digest else None

    def manifest(
        self,
        folder: str,
        digest: Digest,
        *,
        kind: str,  # noqa: ARG002 - the store has it as it was
        key: Digest | None,  # noqa: ARG002
        simulated: bool,  # noqa: ARG002
    ) -> bytes | None:
        """Reads a manifest."""
        return self.document(f"{folder}/{layout.MANIFEST}", digest)


@dataclass(frozen=True)
class DirectoryCopy:
    """A directory: of a store, of fetched engines, of a backup; files are found by their bytes."""

    root: Path

    def blob(self, entry: FileEntry, scratch: Path) -> Path | None:  # noqa: ARG002 - read in place
        """Returns the first file of the right size that has the right digest."""
        for path in self._by_size.get(entry.size, ()):
            try:
                if digest_file(path) == entry.digest:
                    return path
            except OSError:
                continue  # may not be read, or is gone: another one may do
        return None

    def document(self, name: str, digest: Digest) -> bytes | None:
        """Reads the file of a document's name if it is the one that is looked for."""
        path = self.root / name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        return data if digest_bytes(data) == digest else None

    def manifest(
        self, folder: str, digest: Digest, *, kind: str, key: Digest | None, simulated: bool
    ) -> bytes | None:
        """Reads a manifest where a store has it, or makes it anew from a directory's files."""
        found = self.document(f"{folder}/{layout.MANIFEST}", digest)
        if found is not None:
            return found
        for directory in (self.root, *sorted(p for p in self.root.iterdir() if p.is_dir())):
            try:
                made = Manifest.of_directory(directory, kind, key=key, simulated=simulated)
            except (InvalidRecordError, IntegrityError, OSError):
                continue  # holds something else
            if made.digest == digest:
                return made.to_bytes()
        return None

    @cached_property
    def _by_size(self) -> dict[int, list[Path]]:
        found: defaultdict[int, list[Path]] = defaultdict(list)
        for path in self._files():
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found[status.st_size].append(path)
        return dict(found)

    def _files(self) -> Iterator[Path]:
        try:
            for directory, _, files in os.walk(self.root, onerror=_raise):
                yield from (Path(directory, name) for name in sorted(files))
        except OSError as error:
            raise disk_error(error, self.root) from error


def _raise(error: OSError) -> None:
    raise error
