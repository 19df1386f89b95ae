"""Makes timing caches and their signed statements for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from registry.attestations import BuildRecord, sign
from registry.digests import digest_bytes
from registry.errors import IntegrityError
from registry.manifests import Manifest
from registry.service import Registry
from registry.timing import shelf
from registry.timing.statements import measured
from registry.timing.types import FILE, MANIFEST_KIND, TimingCache, TimingKey, TimingPublication
from registry.trust import Purpose
from tests.factories.registry import Workbench

KEY = TimingKey("NVIDIA H100 80GB HBM3", "9.0", "10.14.1.48", "13.0", "13.0")


def other(**fields: str) -> TimingKey:
    """Returns the key with some fields changed."""
    return replace(KEY, **fields)


def publication(
    bench: Workbench, content: bytes = b"timings", key: TimingKey = KEY, *,
    purpose: Purpose = Purpose.BUILD, simulated: bool = False,
) -> TimingPublication:  # fmt: skip
    """Returns a signed cache that is ready to be published."""
    root = bench.directory / f"timing-{digest_bytes(content).short}"
    root.mkdir(exist_ok=True)
    (root / FILE).write_bytes(content)
    manifest = Manifest.of_directory(root, MANIFEST_KIND, key=key.digest(), simulated=simulated)
    record = BuildRecord("urn:test:builder", "run-1", bench.clock(), bench.clock())
    signer = bench.signers.of(purpose, simulated=simulated)
    return TimingPublication(root, manifest, key, sign(measured(manifest, key, record), signer))


def shelved(
    bench: Workbench, content: bytes = b"timings", key: TimingKey = KEY, *, simulated: bool = False
) -> TimingCache:
    """Publishes a cache."""
    return shelf.publish(bench.registry, publication(bench, content, key, simulated=simulated))


def latest(
    registry: Registry, key: TimingKey, *, simulated: bool
) -> tuple[TimingCache | None, tuple[IntegrityError, ...]]:
    """Returns which cache a build would get, and why not a later one."""
    with TemporaryDirectory() as folder:
        return shelf.fetch_latest(registry, key, Path(folder) / "out", simulated=simulated)
