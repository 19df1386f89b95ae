"""Signs what was built and publishes it: checkpoint first, then the engine that came from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.keys import calibration_digest
from enginekeeper.orchestration.stages import Checkpoint
from enginekeeper.specs.variants import Variant
from registry import types
from registry.attestations import BuildRecord, provenance, sign
from registry.digests import Digest
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.publishing import CheckpointPublication, EnginePublication
from registry.signing import open_signer
from registry.trust import Purpose
from registry.types import Engine, Repair


@dataclass(frozen=True)
class BuiltEngine:
    """An engine directory and everything its provenance states."""

    directory: Path
    key: EngineKey
    weights: Digest
    checkpoint: Checkpoint
    repairs: tuple[Repair, ...]
    seconds: float


@dataclass(frozen=True)
class SignedEngine:
    """The manifest of an engine directory, and the builder's signed statement about it."""

    manifest: Manifest
    provenance: bytes


def sign_engine(bench: Bench, built: BuiltEngine) -> SignedEngine:
    """Signs an engine with the builder's key; publishes nothing."""
    manifest = Manifest.of_directory(built.directory, "engine", key=built.key.digest())
    record = build_record(
        bench,
        "builder:inductor",
        built.seconds,
        materials={
            "model": built.weights,
            "checkpoint": built.checkpoint.digest,
            "toolchain": bench.shop.lock_of("inductor"),
        },
        parameters={"weights": str(built.weights)},
    )
    statement = provenance(manifest, built.key, record)
    return SignedEngine(manifest, sign(statement, open_signer(bench.keys, Purpose.BUILD)))


def publish_checkpoint(
    bench: Bench, variant: Variant, weights: Digest, directory: Path, repairs: tuple[Repair, ...]
) -> types.Checkpoint:
    """Publishes a variant's checkpoint; publishing again changes nothing."""
    calibrated = variant.recipe.calibrated
    return bench.registry.publish_checkpoint(
        CheckpointPublication(
            directory=directory,
            model=weights,
            recipe=variant.recipe.kind,
            calibration=calibration_digest(variant) if calibrated else None,
            repairs=repairs,
        )
    )


def publish(bench: Bench, built: BuiltEngine, variant: Variant) -> Engine:
    """Publishes a checkpoint and the engine built from it; publishing again changes nothing."""
    weights, path = built.weights, built.checkpoint.path
    checkpoint = publish_checkpoint(bench, variant, weights, path, built.repairs)
    signed = sign_engine(bench, built)
    return bench.registry.publish_engine(
        EnginePublication(
            directory=built.directory,
            manifest=signed.manifest,
            key=built.key,
            provenance=signed.provenance,
            model=built.weights,
            recipe=variant.recipe.kind,
            target=variant.target.gpu,
            variant=str(variant.identifier),
            checkpoint=checkpoint.digest,
        )
    )


def build_record(
    bench: Bench,
    role: str,
    seconds: float,
    *,
    materials: Mapping[str, Digest],
    parameters: Mapping[str, Any],
) -> BuildRecord:
    """Returns what this run knows of how something was made that has just been finished."""
    finished = datetime.now(UTC)
    return BuildRecord(
        builder=f"urn:enginekeeper:{role}",
        invocation=bench.shop.logs.name,
        started_at=finished - timedelta(seconds=seconds),
        finished_at=finished,
        materials=materials,
        parameters=parameters,
    )
