"""A store that fails where a test says, around a real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from registry.blobs.interface import BlobStore, Document, Feature, Stored
from registry.digests import Digest


class Killed(BaseException):
    """Stands for kill -9: no handler of ordinary errors sees it."""


@dataclass
class DyingStore:
    """Passes calls on to a real store and dies before or after the n-th write."""

    store: BlobStore
    dies_at: int
    after: bool = False
    writes: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The real store's address."""
        return self.store.url

    @property
    def origin(self) -> str:
        """What the real store is remembered by."""
        return self.store.origin

    def put_file(self, path: Path, *, expected: Digest | None = None) -> Digest:
        """Stores a file, or dies."""
        self._before(f"blob {path.name}")
        digest = self.store.put_file(path, expected=expected)
        self._after()
        return digest

    def replace_file(self, path: Path, digest: Digest) -> None:
        """Replaces a damaged blob, or dies."""
        self._before(f"blob {path.name}")
        self.store.replace_file(path, digest)
        self._after()

    def put_document(
        self, name: str, data: bytes, *, if_absent: bool = True, if_match: str | None = None
    ) -> bool:
        """Stores a document, or dies."""
        self._before(f"document {name.rpartition('/')[2]}")
        created = self.store.put_document(name, data, if_absent=if_absent, if_match=if_match)
        self._after()
        return created

    def fetch(self, digest: Digest, destination: Path) -> None:
        """Fetches from the real store."""
        self.store.fetch(digest, destination)

    def exists(self, digest: Digest) -> bool:
        """Asks the real store."""
        return self.store.exists(digest)

    def is_damaged(self, digest: Digest) -> bool:
        """Asks the real store."""
        return self.store.is_damaged(digest)

    def remove(self, digest: Digest) -> None:
        """Removes from the real store."""
        self.store.remove(digest)

    def get_document(self, name: str) -> bytes:
        """Reads from the real store."""
        return self.store.get_document(name)

    def read_document(self, name: str) -> Document:
        """Reads from the real store."""
        return self.store.read_document(name)

    def remove_document(self, name: str) -> None:
        """Removes from the real store."""
        self.store.remove_document(name)

    def stored(self, prefix: str) -> Iterator[Stored]:
        """Lists the real store."""
        return self.store.stored(prefix)

    def probe(self) -> tuple[Feature, ...]:
        """Asks the real store."""
        return self.store.probe()

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Sweeps the real store."""
        return self.store.sweep(older_than, dry_run=dry_run)

    def list_documents(self, prefix: str = "") -> Iterator[str]:
        """Lists the real store."""
        return self.store.list_documents(prefix)

    def _before(self, what: str) -> None:
        self.writes.append(what)
        if len(self.writes) == self.dies_at and not self.after:
            raise Killed(f"before {what}")

    def _after(self) -> None:
        if len(self.writes) == self.dies_at and self.after:
            raise Killed(f"after {self.writes[-1]}")
