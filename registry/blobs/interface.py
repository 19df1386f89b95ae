"""What every artifact store does, wherever its bytes are.

Rules:

- a blob is named by the SHA-256 of its bytes, never changes, and is complete or absent;
- bytes are hashed on the way in and on the way out; a store never vouches for what it holds;
- a document has a name that a person can find; creating one that exists with other bytes is a
  conflict, with the same bytes it is nothing;
- putting twice is putting once.

The contract is tested by one class that runs against every implementation.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from registry.digests import Digest
from registry.errors import IntegrityError, InvalidRecordError, StoreUnavailableError

BLOB_ROOT = "blobs/sha256"
MAX_DOCUMENT = 16 * 1024 * 1024
"""Bytes; a document is read into memory whole."""


class BlobStore(Protocol):
    """Content-addressed bytes, and small named documents that point to them."""

    @property
    def url(self) -> str:
        """The store's own address, without credentials."""
        ...

    def put_file(self, path: Path, *, expected: Digest | None = None) -> Digest:
        """Stores a file's bytes and returns their digest; sends nothing when they are there.

        Raises IntegrityError when the bytes are not the expected ones; nothing is stored then.
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

    def put_document(self, name: str, data: bytes, *, if_absent: bool = True) -> bool:
        """Writes a named document and says whether it was not there before with these bytes.

        With if_absent, raises ConflictError when the name holds other bytes.
        """
        ...

    def get_document(self, name: str) -> bytes:
        """Returns a named document; raises RecordNotFoundError."""
        ...

    def list_documents(self, prefix: str = "") -> Iterator[str]:
        """Yields the names of documents that start with a prefix, in order; never blobs."""
        ...


def blob_name(digest: Digest) -> str:
    """Returns where a blob lies below the store's root."""
    if digest.scheme != "sha256":
        raise InvalidRecordError("blobs are named by sha256", actual=digest, expected="sha256:…")
    return f"{BLOB_ROOT}/{digest.value[:2]}/{digest.value}"


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


def disk_error(error: OSError, where: Path) -> StoreUnavailableError:
    """Says what a failed file operation means for the store."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailableError(
            "the disk is full", where=str(where), remedy="free some space and run again"
        )
    return StoreUnavailableError(
        f"the artifact store cannot be used: {error.strerror or error}",
        where=str(error.filename or where),
        remedy="check that the directory exists, is mounted and may be written",
    )
