"""Changes to timing caches, within one unit of work of the catalogue."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import delete
from sqlalchemy.orm import Session

from registry.audit import Note
from registry.digests import Digest
from registry.errors import ConflictError
from registry.models import Row
from registry.timing.queries import TimingView
from registry.timing.tables import TimingCacheRow
from registry.timing.types import TimingCache


class Insert(Protocol):
    """Inserts a row unless one with its unique columns is there; says which it was."""

    def __call__(self, table: type[Row], /, **values: Any) -> int | None:  # noqa: ANN401 - columns
        """Returns the new row's id; None when it was there."""
        ...


class TimingDraft(TimingView):
    """The timing caches, to be changed in one unit of work."""

    def __init__(self, session: Session, note: Note, insert: Insert) -> None:
        super().__init__(session)
        self._note = note
        self._insert = insert

    def add(self, cache: TimingCache) -> TimingCache:
        """Records a cache; the same bytes of the same key again are the one that is there."""
        identity = self._insert(
            TimingCacheRow, digest=cache.digest, key=cache.key.digest(), **cache.key.document(),
            grown_from=cache.grown_from, size=cache.size, path=cache.path,
            provenance=cache.provenance, simulated=cache.simulated, recorded_at=cache.recorded_at,
        )  # fmt: skip
        if identity is not None:
            self._note("timing cache publish", cache.digest, {"path": cache.path})
        found = self.known(cache.digest)
        if found is None or (found.key, found.simulated) != (cache.key, cache.simulated):
            raise ConflictError(
                "the same bytes are recorded with other facts",
                where=f"timing cache {cache.digest.short}",
                actual=None if found is None else str(found.key),
                expected=str(cache.key),
            )
        return found

    def remove(self, digest: Digest) -> None:
        """Removes a cache's row; the sweep notes it."""
        self._session.execute(delete(TimingCacheRow).where(TimingCacheRow.digest == digest))
