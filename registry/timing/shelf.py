"""Timing caches in the registry: kept per GPU and software, used only if a builder signed them.

Rules:

- a cache is for exactly the key it was measured under, and for the world (simulated or real);
- of a key the latest one that verifies counts: the last writer wins. What another build measured
  at the same time is lost and measured again; no cache is ever changed or merged, since combining
  two takes TensorRT, and `trtllm-build` does not offer it;
- before its bytes are handed out, statement, manifest and every byte are verified; one that
  nobody trusted for builds signed, or that lies there damaged, is passed over, and said.

Example:
    cache, doubts = fetch_latest(registry, key, directory, simulated=False)
    if cache is not None:
        tool(directory / FILE)
"""

from __future__ import annotations

import re
from pathlib import Path

from registry import layout
from registry.digests import Digest
from registry.errors import IntegrityError, InvalidRecordError
from registry.manifests import Manifest
from registry.publishing import Publisher
from registry.service import Registry
from registry.timing.statements import verify_cache
from registry.timing.types import FILE, MANIFEST_KIND, TimingCache, TimingKey, TimingPublication
from registry.transfer import fetch_artifact, load_manifest, store_artifact
from registry.trust import Purpose, Trust


def fetch_latest(
    registry: Registry, key: TimingKey, directory: Path, *, simulated: bool
) -> tuple[TimingCache | None, tuple[IntegrityError, ...]]:
    """Writes the file of the latest cache of a key that verifies, and returns which it is.

    With it comes why each later one was passed over. Raises StoreUnavailableError where the store
    does not answer: of no cache it could be said whether it is whole.
    """
    doubts: list[IntegrityError] = []
    with registry.catalogue.read() as view:
        caches = view.timing.caches(key, simulated=simulated)
    for one in caches:
        try:
            fetch(registry, one, directory)
        except IntegrityError as error:
            doubts.append(error)
        else:
            return one, tuple(doubts)
    return None, tuple(doubts)


def doubt(cache: TimingCache, trust: Trust) -> str | None:
    """Says why a cache does not count; None for one that does."""
    try:
        verify_cache(cache, trust)
    except IntegrityError as error:
        return str(error)
    return None


def fetch(registry: Registry, cache: TimingCache, directory: Path) -> Path:
    """Writes a cache's file after verifying its statement, its manifest and every byte."""
    verify_cache(cache, registry.trust)
    manifest = load_manifest(registry.store, cache.path, cache.digest)
    _check_manifest(manifest, cache.key)
    fetch_artifact(registry.store, manifest, directory)
    return directory / FILE


def publish(registry: Registry, publication: TimingPublication) -> TimingCache:
    """Publishes a cache; the same one again returns it.

    Raises IntegrityError unless a trusted builder signed this manifest and this key.
    """
    manifest, key = publication.manifest, publication.key
    _check_manifest(manifest, key)
    folder = _folder(key, manifest.digest)
    cache = TimingCache(
        digest=manifest.digest,
        key=key,
        grown_from=publication.grown_from,
        size=manifest.size,
        path=folder,
        provenance=publication.provenance.decode(),
        simulated=manifest.simulated,
        recorded_at=registry.clock(),
    )
    verify_cache(cache, registry.trust)
    publisher = Publisher(
        registry.catalogue, registry.store, registry.trust, registry.clock, registry.actor
    )

    def store() -> None:
        store_artifact(registry.store, publication.directory, manifest, folder)
        publisher.attest(folder, Purpose.BUILD, publication.provenance)

    return publisher.record(manifest, folder, store, lambda draft: draft.timing.add(cache))


def _folder(key: TimingKey, digest: Digest) -> str:
    gpu = re.sub(r"[^A-Za-z0-9._+-]+", "-", key.gpu).strip("-.")
    software = f"cuda-{key.cuda_runtime}-driver-{key.cuda_driver}"
    return layout.timing_path(gpu, key.tensorrt, software, digest)


def _check_manifest(manifest: Manifest, key: TimingKey) -> None:
    names = [entry.path for entry in manifest.files]
    if (manifest.kind, manifest.key, names) != (MANIFEST_KIND, key.digest(), [FILE]):
        raise InvalidRecordError(
            "the manifest is not that of a timing cache of this key",
            where="manifest",
            actual=f"kind {manifest.kind}, key {manifest.key}, files {', '.join(names)}"[:300],
            expected=f"kind {MANIFEST_KIND}, key {key.digest()}, the file {FILE}",
        )
