"""The manifest: every file of an artifact, with size and digest; its own digest is the id.

Rules:

- the manifest's own digest is the SHA-256 of its canonical JSON, so `sha256sum manifest.json`
  prints the artifact's id;
- paths are confined: relative, no `..`, no symbolic links, nothing that is not a regular file;
- a directory fits its manifest only if it has these files, these bytes, and nothing else;
- what a manifest says (the key it was built for, whether it is simulated) is covered by the
  signature over its digest.

Example:
    manifest = Manifest.of_directory(built, "engine", key=key.digest())
    verify_directory(manifest, fetched)
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.digests import Digest, canonical_json, digest_bytes
from registry.documents import check_schema, read_object
from registry.errors import IntegrityError, InvalidRecordError, IrregularFileError
from registry.names import check_component, check_path

SCHEMA = 1
_FIELDS = {"schema", "kind", "key", "simulated", "files"}


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of an artifact."""

    path: str
    """Relative to the artifact's directory, POSIX."""
    size: int
    """Bytes."""
    digest: Digest

    def __post_init__(self) -> None:
        check_path(self.path, where="manifest")
        if type(self.size) is not int or self.size < 0 or self.digest.scheme != "sha256":
            raise InvalidRecordError(
                "not a file entry",
                where=f"manifest: {self.path}",
                actual=f"size {self.size}, {self.digest}",
                expected="a whole size of at least 0 and a sha256 digest",
            )

    def as_dict(self) -> dict[str, Any]:
        """Returns the entry as a JSON object."""
        return {"path": self.path, "size": self.size, "digest": str(self.digest)}


@dataclass(frozen=True)
class Manifest:
    """The files of one artifact, in path order."""

    kind: str
    """`engine`, `checkpoint` or `reference`."""
    files: tuple[FileEntry, ...]
    key: Digest | None = None
    """Digest of the key the artifact was made for, where it has one."""
    simulated: bool = False

    def __post_init__(self) -> None:
        check_component(self.kind, where="manifest: kind")
        object.__setattr__(self, "files", tuple(sorted(self.files)))
        paths = {entry.path for entry in self.files}
        parents = {str(parent) for path in paths for parent in _parents(path)}
        if not self.files or len(paths) != len(self.files) or paths & parents:
            raise InvalidRecordError(
                "a manifest lists at least one file, each path once, none of them a directory",
                where="manifest",
                actual=sorted(paths & parents) or [entry.path for entry in self.files][:5],
            )

    @classmethod
    def of_directory(
        cls, path: Path, kind: str, *, key: Digest | None = None, simulated: bool = False,
        hashed: Callable[[Path], tuple[int, Digest]] | None = None,
    ) -> Manifest:  # fmt: skip
        """Lists and hashes a directory; refuses symbolic links and special files.

        `hashed` is for who keeps hashes of files that did not change: it returns size and digest.
        """
        entries = []
        for name in _regular_files(path):
            size, digest = (hashed or size_and_digest)(path / name)
            entries.append(FileEntry(name, size, digest))
        return cls(kind, tuple(entries), key, simulated)

    @property
    def digest(self) -> Digest:
        """The artifact's id: the SHA-256 of the manifest's bytes."""
        return digest_bytes(self.to_bytes())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def to_bytes(self) -> bytes:
        """Returns the canonical JSON that is hashed, signed and stored."""
        return canonical_json(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Returns the manifest as a JSON object."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "key": None if self.key is None else str(self.key),
            "simulated": self.simulated,
            "files": [entry.as_dict() for entry in self.files],
        }

    @classmethod
    def from_bytes(cls, data: bytes, *, expected: Digest) -> Manifest:
        """Reads a manifest whose digest is known; raises IntegrityError when it is another one."""
        actual = digest_bytes(data)
        if actual != expected:
            raise IntegrityError(
                "the manifest is not the one that was signed",
                where="manifest.json", actual=actual, expected=expected,
                remedy="do not load the artifact; publish it again or restore it from another copy",
            )  # fmt: skip
        return cls.from_dict(read_object(data, where="manifest.json"))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Manifest:
        """Reads what `as_dict` wrote; raises InvalidRecordError on anything else."""
        check_schema(document, SCHEMA, where="manifest")
        if set(document) != _FIELDS or not isinstance(document["simulated"], bool):
            raise InvalidRecordError(
                "not a manifest", actual=sorted(document), expected=sorted(_FIELDS)
            )
        try:
            files = tuple(
                FileEntry(entry["path"], entry["size"], Digest.parse(entry["digest"]))
                for entry in document["files"]
            )
            key = None if document["key"] is None else Digest.parse(document["key"])
            return cls(document["kind"], files, key, document["simulated"])
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidRecordError(f"not a manifest: {error}", where="manifest") from error


def verify_directory(manifest: Manifest, path: Path) -> None:
    """Raises IntegrityError unless the directory has exactly the manifest's files and bytes."""
    expected = {entry.path: entry for entry in manifest.files}
    try:
        found = set(_regular_files(path))
    except IrregularFileError as error:
        raise irregular(error) from error
    if found != set(expected):
        raise IntegrityError(
            "the directory does not hold the manifest's files",
            where=str(path),
            actual=f"missing {sorted(expected.keys() - found)}, "
            f"extra {sorted(found - expected.keys())}",
            expected=f"the {len(expected)} files of the manifest and nothing else",
        )
    for name, entry in expected.items():
        size, digest = size_and_digest(path / name)
        if (size, digest) != (entry.size, entry.digest):
            raise IntegrityError(
                "the file's bytes are not those of the manifest",
                where=str(path / name),
                actual=f"{digest}, {size} bytes",
                expected=f"{entry.digest}, {entry.size} bytes",
                remedy="do not load the artifact; fetch it again",
            )


def irregular(error: IrregularFileError) -> IntegrityError:
    """Returns what a file that nobody put there means, where an artifact is known to be."""
    return IntegrityError(
        error.what, where=error.where, actual=error.actual, expected=error.expected,
        remedy="do not load the artifact; fetch it again",
    )  # fmt: skip


def _regular_files(root: Path) -> Iterator[str]:
    """Yields the relative paths below a directory, sorted; raises on anything but plain files."""
    if not root.is_dir() or root.is_symlink():
        raise InvalidRecordError("not a directory", where=str(root))
    for directory, folders, files in os.walk(root, onerror=_unreadable):
        folders.sort()
        for name in sorted([*files, *folders]):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise IrregularFileError(
                    "neither a regular file nor a directory",
                    where=str(path),
                    actual="a symbolic link" if stat.S_ISLNK(mode) else "a special file",
                    expected="regular files only",
                )
            if stat.S_ISREG(mode):
                yield path.relative_to(root).as_posix()


def _unreadable(error: OSError) -> None:
    raise InvalidRecordError(f"the directory cannot be read: {error}") from error


def size_and_digest(path: Path) -> tuple[int, Digest]:
    """Returns size and digest of the same bytes; never follows a symbolic link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb", closefd=True) as handle:  # noqa: PTH123 - from a descriptor
        value = hashlib.file_digest(handle, "sha256").hexdigest()
        return handle.tell(), Digest("sha256", value)


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
