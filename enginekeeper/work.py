"""The work store: what a stage made, kept under the digest of what went into it.

Rules:

- a product is a directory; it is complete or absent, never half there: it is written
  under a temporary name and renamed when the stage has ended well;
- one process makes a product at a time; the others wait and then find it;
- what a killed process left behind is swept by the next one that needs the same product.

Example:
    with work.product("checkpoint", key) as product:
        if not product.complete:
            quantize(into=product.path)
    use(work.path("checkpoint", key))
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError, UnavailableError
from registry.digests import Digest
from registry.disks import full_disk_said
from registry.files import write_whole

_RECORD = "product.json"


@dataclass(frozen=True)
class Product:
    """A stage's product: where it is, and whether it is there already."""

    path: Path
    complete: bool


@dataclass(frozen=True)
class WorkStore:
    """Products of stages below one directory, by kind and key."""

    root: Path

    def path(self, kind: str, key: Digest) -> Path:
        """Returns where a product is or would be."""
        return self.root / kind / key.value[:32]

    def find(self, kind: str, key: Digest) -> Path | None:
        """Returns a complete product's directory, or None."""
        path = self.path(kind, key)
        return path if (path / _RECORD).is_file() else None

    def record(self, kind: str, key: Digest) -> Mapping[str, Any]:
        """Returns what the stage recorded beside its product."""
        path = self.path(kind, key) / _RECORD
        try:
            return read_json_object(path)
        except InputError as error:
            raise InputError(
                f"the record of a {kind}: {error.what}",
                where=str(path),
                actual=error.actual,
                remedy=f"remove the directory {path.parent} and run again",
            ) from error

    def forget(self, kind: str, key: Digest) -> None:
        """Removes a product, so that it is made anew; nothing if there is none."""
        with self._locked(kind, key):
            (self.path(kind, key) / _RECORD).unlink(missing_ok=True)  # from here on it is absent
            shutil.rmtree(self.path(kind, key), ignore_errors=True)

    @contextmanager
    def product(self, kind: str, key: Digest) -> Iterator[tuple[Product, dict[str, Any]]]:
        """Gives a directory to fill and a record to complete; commits both when the block ends.

        A product that is there already is given as complete and left as it is.
        """
        final = self.path(kind, key)
        with full_disk_said(final), self._locked(kind, key):
            if self.find(kind, key) is not None:
                yield Product(final, complete=True), dict(self.record(kind, key))
                return
            draft = final.with_name(final.name + ".draft")
            shutil.rmtree(draft, ignore_errors=True)
            record: dict[str, Any] = {}
            try:
                draft.mkdir(parents=True)
                yield Product(draft, complete=False), record
                self._commit(draft, final, {"kind": kind, "key": str(key), **record})
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    @contextmanager
    def _locked(self, kind: str, key: Digest) -> Iterator[None]:
        locks = self.root / "locks"
        try:
            with full_disk_said():
                locks.mkdir(parents=True, exist_ok=True)
                handle = (locks / f"{kind}-{key.value[:32]}").open("w")
        except OSError as error:
            raise UnavailableError(
                f"the cache cannot be used: {error.strerror}",
                where=str(locks),
                remedy="set ENGINEKEEPER_CACHE to a directory you may write to, with space left",
            ) from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # the kernel releases it when the process dies
            yield

    @staticmethod
    def _commit(draft: Path, final: Path, record: Mapping[str, Any]) -> None:
        write_whole(draft / _RECORD, json.dumps(record, indent=2, sort_keys=True).encode())
        shutil.rmtree(final, ignore_errors=True)
        draft.replace(final)
