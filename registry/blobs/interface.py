"""What every artifact store does, wherever its bytes are.

Rules:

- a blob is named by the SHA-256 of its bytes, never changes, and is complete or absent;
- bytes are hashed on the way in and on the way out; a store never vouches for what it holds;
- a document has a name that a person can find; creating one that exists with other bytes is a
  conflict, with the same bytes it is nothing;
- a document that moves is moved by compare-and-swap: of racers with different bytes one wins;
- putting twice is putting once;
- what was interrupted is gone on with, from what is there and verified.

The contract is tested by one class that runs against every implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from registry.digests import Digest, digest_bytes
from registry.disks import disk_full, is_full
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    StoreUnavailableError,
)

BLOB_ROOT = "blobs/sha256"
PROBE_ROOT = "probe"
"""What the probe of a store writes; no document is looked for there."""
PART = 16 * 1024 * 1024
"""Bytes that are sent as one: what an interruption costs at most, a few times over. 4 threads of
16 MiB were the fastest uploads measured."""
RANGE = 2 * PART
"""Bytes that are received and verified as one; to ask for a range costs botocore 2 ms of processor
time. 4 threads of 32 MiB were the fastest downloads measured."""
MAX_DOCUMENT = 16 * 1024 * 1024
"""Bytes; a document is read into memory whole."""


Progress = Callable[[str, int, int], None]
"""Hears of a file's name, the bytes of it that are stored or written, and of how many; called in
one thread, in order."""


@dataclass(frozen=True)
class Document:
    """A named document as it was found."""

    data: bytes
    version: str
    """What `put_document(if_match=…)` compares; another one after every change."""


@dataclass(frozen=True)
class Stored:
    """A document or a blob as a listing shows it."""

    name: str
    size: int
    """Bytes."""
    age: timedelta
    """Since it was last written, by the store's own clock."""


@dataclass(frozen=True)
class Feature:
    """One thing a store needs from what it lies on, and whether it is there."""

    name: str
    supported: bool
    required: bool
    """Whether nothing is published without it."""
    otherwise: str
    """What happens where it is missing."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the feature as a JSON object."""
        return {"feature": self.name, "supported": self.supported, "required": self.required,
                "otherwise": self.otherwise}  # fmt: skip


class BlobStore(Protocol):
    """Content-addressed bytes, and small named documents that point to them."""

    @property
    def url(self) -> str:
        """The store's own address, without credentials."""
        ...

    @property
    def origin(self) -> str:
        """Names this store among all, however its address is spelled; what was seen goes by it."""
        ...

    def put_file(self, path: Path, *, expected: Digest | None = None) -> Digest:
        """Stores a file's bytes and returns their digest; sends nothing when they are there.

        Raises IntegrityError when the bytes are not the expected ones; nothing is stored then.
        """
        ...

    def replace_file(self, path: Path, digest: Digest) -> None:
        """Puts good bytes in the place of a damaged blob, which is there until they are.

        Raises IntegrityError when the bytes are not those of the digest; nothing changes then.
        """
        ...

    def fetch(self, digest: Digest, destination: Path) -> None:
        """Writes a blob to a file that appears complete and verified, or not at all.

        Raises RecordNotFoundError for an absent blob, IntegrityError for other bytes.
        """
        ...

    def exists(self, digest: Digest) -> bool:
        """Says whether the blob is there; says nothing about its bytes."""
        ...

    def is_damaged(self, digest: Digest) -> bool:
        """Reads a blob that is there and says whether its bytes are not those of its name."""
        ...

    def remove(self, digest: Digest) -> None:
        """Removes a blob; nothing if it is not there."""
        ...

    def put_document(
        self, name: str, data: bytes, *, if_absent: bool = True, if_match: str | None = None
    ) -> bool:
        """Writes a named document and says whether it was not there before with these bytes.

        With if_match, the version that `read_document` gave, writes only over that version;
        with if_absent, which does not count then, only if there is none. Raises ConflictError
        when the name holds other bytes.
        """
        ...

    def get_document(self, name: str) -> bytes:
        """Returns a named document's bytes; raises RecordNotFoundError."""
        ...

    def read_document(self, name: str) -> Document:
        """Returns a named document with its version; raises RecordNotFoundError."""
        ...

    def list_documents(self, prefix: str = "") -> Iterator[str]:
        """Yields the names of documents that start with a prefix, in order; never blobs."""
        ...

    def remove_document(self, name: str) -> None:
        """Removes a named document; nothing if it is not there."""
        ...

    def stored(self, prefix: str) -> Iterator[Stored]:
        """Yields what lies below a folder, blobs too (`BLOB_ROOT`), in no order."""
        ...

    def probe(self) -> tuple[Feature, ...]:
        """Finds out, by trying, what the store's server or file system supports.

        A store tries once before its first write and refuses to write where a required feature
        is missing.
        """
        ...

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Removes what writers left unfinished and untouched for that long; returns its names."""
        ...


def blob_name(digest: Digest) -> str:
    """Returns where a blob lies below the store's root."""
    if digest.scheme != "sha256":
        raise InvalidRecordError("blobs are named by sha256", actual=digest, expected="sha256:…")
    return f"{BLOB_ROOT}/{digest.value[:2]}/{digest.value}"


def blob_of(name: str) -> Digest | None:
    """Returns the digest of the blob that lies at a name, or None for what is no blob."""
    value = name.rpartition("/")[2]
    try:
        digest = Digest("sha256", value)
    except InvalidRecordError:
        return None
    return digest if blob_name(digest) == name else None


def check_bytes(actual: Digest, expected: Digest, *, where: str) -> None:
    """Raises IntegrityError when bytes are not those that their name promises."""
    if actual != expected:
        raise IntegrityError(
            "the bytes are not those the digest names",
            where=where,
            actual=actual,
            expected=expected,
            remedy="do not use them; fetch again, or publish the artifact again",
        )


def document_conflict(where: str, found: bytes | None, *, expected: object) -> ConflictError:
    """Says that a document is not what its writer took it for."""
    return ConflictError(
        "the document is not there any more" if found is None else "the document has other bytes",
        where=where,
        actual=None if found is None else digest_bytes(found),
        expected=expected,
        remedy="read it again and decide again: somebody else was first",
    )


def require(features: tuple[Feature, ...], where: str) -> None:
    """Raises StoreUnavailableError when a feature is missing that publishing needs."""
    missing = [one for one in features if one.required and not one.supported]
    if missing:
        raise StoreUnavailableError(
            "nothing can be published here safely",
            where=where,
            actual=f"no {', no '.join(one.name for one in missing)}: "
            f"{'; '.join(one.otherwise for one in missing)}",
            expected=f"{', '.join(one.name for one in features if one.required)}",
            remedy="use another server (`enginekeeper store probe` shows what one supports)",
        )


def check_whole(data: bytes, *, where: str) -> bytes:
    """Returns a document that was read up to the limit and a byte more; refuses a longer one."""
    if len(data) > MAX_DOCUMENT:
        raise IntegrityError(
            "the document is longer than any that is written here",
            where=where,
            actual=f"more than {MAX_DOCUMENT} bytes",
            expected=f"at most {MAX_DOCUMENT} bytes",
        )
    return data


def disk_error(error: OSError, where: Path) -> StoreUnavailableError:
    """Says what a failed file operation means for the store."""
    if is_full(error):
        return disk_full(error, where)
    return StoreUnavailableError(
        f"the artifact store cannot be used: {error.strerror or error}",
        where=str(error.filename or where),
        remedy="check that the directory exists, is mounted and may be written",
    )


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns the failure of any file operation of a block into the store's error."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, where) from error
