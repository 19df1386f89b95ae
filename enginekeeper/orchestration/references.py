"""References in the registry: made on one machine, believed on another by their signature.

Rules:

- a reference is found by its work key, which names everything that its numbers depend on;
- of several that were made at the same time, the first that was recorded is everybody's;
- one that does not verify is an error and is never quietly made again; only where its signer
  was trusted and is not any more, as the trust file says, it is made anew.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.publication import BuildRun, build_record
from enginekeeper.orchestration.stages import REFERENCE, SCORES, Made, Probe
from enginekeeper.validation.scores import load_scores
from registry.attestations import recording, sign
from registry.digests import Digest
from registry.errors import IntegrityError
from registry.manifests import Manifest
from registry.publishing import ReferencePublication
from registry.trust import Purpose
from registry.types import Reference

FETCHED = "fetched"
"""In the record of a product: another machine made it."""

progress = logging.getLogger("enginekeeper.progress")


def fetch_reference(bench: Bench, key: Digest, product: Path) -> dict[str, Any] | None:
    """Fetches the reference of a key, verified, into a product; None when the registry has none."""
    oldest_first = reversed(bench.registry.references(key=key))
    first = next((one for one in oldest_first if not bench.registry.is_withdrawn(one)), None)
    if first is None:
        return None
    progress.info("reference: %s from the registry ...", first.digest.short)
    bench.registry.fetch_reference(first, product / REFERENCE)
    return {"digest": str(first.digest), FETCHED: True}


def outlives_its_signer(bench: Bench, made: Made) -> bool:
    """Says whether a reference was fetched from somebody who is not trusted any more.

    One that was made here is signed anew, one that was fetched is made anew: nobody signs what
    another machine said.
    """
    if not made.record.get(FETCHED, "versions" not in made.record):
        return False
    return any(
        str(one.digest) == made.record["digest"] and bench.registry.is_withdrawn(one)
        for one in bench.registry.references(key=made.key)
    )


def record_reference(bench: Bench, probe: Probe, weights: Digest) -> Reference:
    """Publishes the reference of a probe; publishing again changes nothing."""
    made, scoring, tokens = probe.targets["source"], probe.scoring, probe.suite
    runtime = str(load_scores(made.path / SCORES, tokens).meta["vllm"])
    manifest = _manifest(probe)
    # signed before the registry is opened: a first signature makes the keys that it then trusts
    provenance = _known(bench, manifest) or _signed(bench, probe, manifest, weights, runtime)
    return bench.registry.record_reference(
        ReferencePublication(
            directory=made.path,
            manifest=manifest,
            provenance=provenance,
            model=weights,
            suite=scoring.suite_digest,
            tokens=tokens.digest,
            runtime=runtime,
            dtype=scoring.reference_dtype,
            top_k=scoring.top_k,
        )
    )


def _manifest(probe: Probe) -> Manifest:
    """Lists the reference's file; raises IntegrityError when it is not the one that was made."""
    made = probe.targets["source"]
    manifest = Manifest.of_directory(made.path, "reference", key=made.key)
    if manifest.digest != probe.reference:
        raise IntegrityError(
            "the reference in the work store is not the one that was made or fetched",
            where=str(made.path),
            actual=manifest.digest,
            expected=probe.reference,
            remedy=f"remove the directory {made.path.parent} and run again",
        )
    return manifest


def _known(bench: Bench, manifest: Manifest) -> bytes | None:
    """Returns the statement of whoever recorded these bytes first, if it counts or ever may.

    It is verified anew with them: a fetched reference may outlive the trust in its signer.
    """
    for reference in bench.registry.references(key=manifest.key):
        if reference.digest == manifest.digest and not bench.registry.is_withdrawn(reference):
            return reference.provenance.encode()
    return None


def _signed(bench: Bench, probe: Probe, manifest: Manifest, weights: Digest, runtime: str) -> bytes:
    scoring = probe.scoring
    record = build_record(
        f"recorder:{scoring.reference_toolchain}",
        BuildRun.ending_now(bench, probe.targets["source"].seconds),
        materials={
            "model": weights,
            "suite": scoring.suite_digest,
            "tokens": probe.suite.digest,
            "toolchain": bench.shop.lock_of(scoring.reference_toolchain),
        },
        parameters={
            "runtime": runtime,
            "dtype": scoring.reference_dtype,
            "top_k": scoring.top_k,
            "greedy": scoring.greedy,
        },
    )
    return sign(recording(manifest, record), *bench.signers(Purpose.REFERENCE))
