"""Timing caches of builds: the latest that counts is fetched before one, a grown one kept after.

Rules:

- the key is what the toolchain pins and the driver says; a build whose software is not known in
  full takes no cache and leaves none;
- a cache is kept only if the header of the plan names the TensorRT of the key;
- a cache makes a build faster and nothing else: where the registry has none that counts, or cannot
  keep one, that is said, and the build goes on;
- it has no part in the engine's key: builds are not the same bit for bit anyway. The builder's
  statement names the cache that a build started with.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.building.interface import BuiltEngine, TimingFiles
from enginekeeper.building.simulated.build import TENSORRT
from enginekeeper.building.simulated.fleet import DRIVER
from enginekeeper.compatibility.cuda import cuda_of_driver
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.launching import runs_elsewhere
from enginekeeper.orchestration.publication import BuildRun, build_record
from enginekeeper.specs.gpus import GpuProduct
from enginekeeper.specs.variants import Variant
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from registry.attestations import sign
from registry.digests import Digest
from registry.errors import DiagnosedError, IntegrityError
from registry.manifests import Manifest
from registry.timing import shelf
from registry.timing.statements import measured
from registry.timing.types import FILE, MANIFEST_KIND, TimingCache, TimingKey, TimingPublication
from registry.trust import Purpose

progress = logging.getLogger("enginekeeper.progress")

_TENSORRT = re.compile(r"^tensorrt(?:-cu\d+)?==(\d+(?:\.\d+){3})", re.MULTILINE)
_CUDA_RUNTIME = re.compile(r"^nvidia-cuda-runtime(?:-cu\d+)?==(\d+\.\d+)", re.MULTILINE)


@dataclass(frozen=True)
class BuildTiming:
    """Where the builds of a variant take their timing cache from, and leave it."""

    bench: Bench
    key: TimingKey
    name: str
    toolchain: str
    simulated: bool

    def begin(self, directory: Path) -> TimingRun:
        """Fetches the latest cache that counts; one that cannot be had is said and gone without."""
        started_from: TimingCache | None = None
        doubts: tuple[IntegrityError, ...] = ()
        try:
            started_from, doubts = shelf.fetch_latest(
                self.bench.registry, self.key, directory / "start", simulated=self.simulated
            )
        except DiagnosedError as error:
            self._say(f"no timing cache is used: {error}")
        for doubt in doubts:
            self._say(f"a timing cache is not used: {doubt}")
        start = None if started_from is None else directory / "start" / FILE
        said = "none" if started_from is None else started_from.digest.short
        self._say(f"timing cache of {self.key}: {said}")
        (directory / "end").mkdir(parents=True)
        return TimingRun(self, TimingFiles(start, directory / "end" / FILE), started_from)

    def publish(self, publication: TimingPublication) -> TimingCache | None:
        """Publishes a cache; None, and said, where the registry cannot keep it."""
        try:
            return shelf.publish(self.bench.registry, publication)
        except DiagnosedError as error:
            self._say(f"the timing cache is not kept: {error}")
            return None

    def signed(
        self, manifest: Manifest, directory: Path, before: Digest | None, seconds: float
    ) -> TimingPublication:
        """Returns the cache in a directory with the builder's statement, to be published."""
        grown = {} if before is None else {"timing_cache": before}
        record = build_record(
            "builder:simulated" if self.simulated else "builder:tensorrt_llm",
            BuildRun.ending_now(self.bench, seconds),
            materials={"toolchain": self.bench.shop.lock_of(self.toolchain), **grown},
            parameters={"variant": self.name},
        )
        signers = self.bench.signers(Purpose.BUILD, simulated=self.simulated)
        envelope = sign(measured(manifest, self.key, record), *signers)
        return TimingPublication(directory, manifest, self.key, envelope, before)

    def _say(self, text: str) -> None:
        progress.info("%s: %s", self.name, text)


@dataclass(frozen=True)
class TimingRun:
    """One build's timing cache: what it started with, and where it leaves its own."""

    timing: BuildTiming
    files: TimingFiles
    started_from: TimingCache | None

    def end(self, built: BuiltEngine) -> dict[str, Any]:
        """Keeps what the build measured, and returns what is recorded of it."""
        said = dict(built.report.get("timing_cache", {}))
        kept = self._kept(built)
        shutil.rmtree(self.files.end.parent.parent)
        found = max(0, said.get("ranks", 0) - said.get("fresh", 0) - said.get("not_taken", 0))
        progress.info(
            "%s: timing cache: %d of %d ranks found one; %s bytes before, %s after, %s entries; %s",
            self.timing.name,
            found,
            said.get("ranks", 0),
            said.get("before") or "no",
            said.get("after") or "no",
            "unknown" if said.get("entries") is None else said["entries"],
            kept[1],
        )
        return {
            **said,
            "found": found,
            "key": self.timing.key.document(),
            "started_from": self.started_from and str(self.started_from.digest),
            "kept": kept[0] and str(kept[0]),
        }

    def _kept(self, built: BuiltEngine) -> tuple[Digest | None, str]:
        """Publishes the cache if there is anything new in it; says what became of it."""
        file, key = self.files.end, self.timing.key
        if not file.is_file():
            return None, "the tool left none"
        version = built.report.get("tensorrt")
        if version != key.tensorrt:
            return None, f"not kept: the plan's header says TensorRT {version}"
        manifest = Manifest.of_directory(
            file.parent, MANIFEST_KIND, key=key.digest(), simulated=self.timing.simulated
        )
        before = None if self.started_from is None else self.started_from.digest
        if manifest.digest == before:
            return before, "nothing new was measured"
        signed = self.timing.signed(manifest, file.parent, before, built.seconds)
        done = self.timing.publish(signed)
        return (None, "not kept") if done is None else (done.digest, f"kept as {done.digest.short}")


def timing_of(bench: Bench, variant: Variant, product: GpuProduct) -> BuildTiming | None:
    """Returns where a variant's builds take their timing cache from; None, and said, for nowhere.

    For a real toolchain the driver is that of this machine; where its builds run on another one,
    in a cluster, there is none.
    """
    name, toolchain = str(variant.identifier), variant.profile.name
    if variant.profile.simulated:
        return BuildTiming(bench, simulated_key(variant, product), name, toolchain, simulated=True)
    if runs_elsewhere(toolchain, bench.settings):
        progress.info("%s: no timing cache: the driver of the node that builds is not known", name)
        return None
    from enginekeeper.fleet.nvml import open_nvml  # noqa: PLC0415 - most commands ask no GPU

    driver = open_nvml().driver()
    if driver is None:
        progress.info("%s: no timing cache: there is no NVIDIA driver here", name)
        return None
    try:
        lock = lock_of(find_toolchain(toolchain), bench.settings)
        key = locked_key(product, lock, driver.cuda)
    except (InputError, UnavailableError) as error:
        progress.info("%s: no timing cache: %s", name, error)
        return None
    return BuildTiming(bench, key, name, toolchain, simulated=False)


def simulated_key(variant: Variant, product: GpuProduct) -> TimingKey:
    """Returns the key of a double's caches: its own TensorRT, and the simulated fleet's driver."""
    release = variant.profile.release
    cuda = cuda_of_driver(DRIVER)
    if release is None or cuda is None:
        raise AssertionError(f"{variant.identifier} is built by no double")
    runtime = variant.profile.cuda
    return TimingKey(
        gpu=product.product,
        compute_capability=str(product.compute_capability),
        tensorrt=".".join(map(str, TENSORRT[release.version])),
        # of some releases only the major version is known: a double runs on its driver's
        cuda_runtime=runtime if runtime is not None and "." in runtime else cuda,
        cuda_driver=cuda,
    )


def locked_key(product: GpuProduct, lock: Path, cuda_driver: str) -> TimingKey:
    """Returns the key of a toolchain's caches by what its lock file pins.

    Raises InputError for one that does not pin TensorRT and the CUDA runtime: what it would measure
    could not be told from what another one does.
    """
    text = lock.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for name, pattern in (("tensorrt", _TENSORRT), ("cuda_runtime", _CUDA_RUNTIME)):
        pinned = sorted(set(pattern.findall(text)))
        if len(pinned) != 1:
            raise InputError(
                f"the lock file does not say which {name} the toolchain has",
                where=str(lock),
                actual=", ".join(pinned) or "none pinned",
                expected="one version",
                remedy="timing caches are neither used nor kept with this toolchain",
            )
        found[name] = pinned[0]
    return TimingKey(
        gpu=product.product,
        compute_capability=str(product.compute_capability),
        cuda_driver=cuda_driver,
        **found,
    )


def started_from(record: Mapping[str, Any]) -> Digest | None:
    """Returns the timing cache that a product of the work store was built with."""
    text = (record.get("timing") or {}).get("started_from")
    return None if text is None else Digest.parse(text)
