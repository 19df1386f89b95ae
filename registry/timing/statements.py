"""What a builder signs of a timing cache, and whether it counts."""

from __future__ import annotations

from dataclasses import replace

from registry.attestations import BUILD_TYPES, BuildRecord, Statement, made_under, verify_made
from registry.manifests import Manifest
from registry.timing.types import MANIFEST_KIND, TimingCache, TimingKey
from registry.trust import Trust

_BUILD_TYPE = BUILD_TYPES[MANIFEST_KIND]


def measured(manifest: Manifest, key: TimingKey, record: BuildRecord) -> Statement:
    """States that a cache was measured by a build under a key: for a builder to sign."""
    given = {**record.parameters, "timing_key": key.document()}
    return made_under(manifest, _BUILD_TYPE, replace(record, parameters=given))


def verify_cache(cache: TimingCache, trust: Trust) -> None:
    """Raises IntegrityError unless a builder whom we trust signed these bytes for this key."""
    verify_made(
        cache.provenance.encode(), trust, _BUILD_TYPE, cache.key.digest(),
        subject=cache.digest, simulated=cache.simulated,
    )  # fmt: skip
