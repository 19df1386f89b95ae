"""Questions about timing caches; which of them is to be believed is for `registry.timing.shelf`."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.digests import Digest
from registry.timing.tables import TimingCacheRow
from registry.timing.types import TimingCache, TimingKey
from registry.types import Holding


class TimingView:
    """The timing caches in one state of the catalogue."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def caches(
        self, key: TimingKey | None = None, *, simulated: bool | None = None
    ) -> list[TimingCache]:
        """Returns the caches of a key or all, of one world or of both, the latest first."""
        row = TimingCacheRow
        query = select(row).order_by(row.id.desc())
        if key is not None:
            query = query.where(row.key == key.digest())
        if simulated is not None:
            query = query.where(row.simulated == simulated)
        return [to_cache(one) for one in self._session.scalars(query)]

    def holdings(self, *, after: int = 0) -> list[Holding]:
        """Returns the caches recorded after a row in short, the latest first."""
        row = TimingCacheRow
        found = self._session.scalars(select(row).where(row.id > after).order_by(row.id.desc()))
        return [
            Holding(one.id, one.digest, (one.key, one.simulated), one.size, one.path,
                    one.recorded_at)
            for one in found
        ]  # fmt: skip

    def known(self, digest: Digest) -> TimingCache | None:
        """Returns the cache with exactly this id, or None."""
        row = TimingCacheRow
        found = self._session.scalars(select(row).where(row.digest == digest)).one_or_none()
        return None if found is None else to_cache(found)


def to_cache(row: TimingCacheRow) -> TimingCache:
    """Returns a cache's row as a value."""
    return TimingCache(
        digest=row.digest,
        key=TimingKey(
            row.gpu, row.compute_capability, row.tensorrt, row.cuda_runtime, row.cuda_driver
        ),
        grown_from=row.grown_from,
        size=row.size,
        path=row.path,
        provenance=row.provenance,
        simulated=row.simulated,
        recorded_at=row.recorded_at,
    )
