"""Time and peak memory of exporting and unpacking a bundle of one GiB, all on one disk.

python benchmarks/bundle.py
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' factories make the engine

from registry.attestations import BuildRecord, provenance, sign
from registry.bundles import unpack, write_bundle
from registry.exchange import evidence_of
from registry.manifests import Manifest
from registry.types import EngineNames
from registry.verification import build_parameters
from tests.factories.registry import START, WEIGHTS, make_workbench

MIB = 1024
PIECE = os.urandom(1 << 20)


def main() -> None:
    """Prints one line."""
    with TemporaryDirectory() as scratch:
        bench = make_workbench(Path(scratch, "registry"))
        publication = bench.publication()
        with (publication.directory / "weights.bin").open("wb") as out:
            for number in range(MIB):
                out.write(number.to_bytes(8, "big") + PIECE[8:])
        manifest = Manifest.of_directory(
            publication.directory, "engine", key=publication.key.digest()
        )
        names = EngineNames(
            "smollm2-135m", publication.recipe, publication.target, publication.variant
        )
        record = BuildRecord(
            "urn:test:builder", "run", START, START, parameters=build_parameters(names, WEIGHTS)
        )
        signed = sign(provenance(manifest, publication.key, record), bench.signers.builder)
        engine = bench.registry.publish_engine(
            replace(publication, manifest=manifest, provenance=signed)
        )
        bundle, before = Path(scratch, "bundle"), _peak()
        evidence = evidence_of(bench.registry, engine)
        export = _timed(lambda: write_bundle(bench.registry.store, evidence, bundle))
        taken = _timed(lambda: unpack(bundle, bench.signers.trust, Path(scratch, "out")))
    print(
        f"1 GiB: export {export:.1f} s, unpack {taken:.1f} s, peak memory {_peak():.0f} MiB "
        f"({before:.0f} before), load {os.getloadavg()[0]:.0f}"
    )


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


main()
