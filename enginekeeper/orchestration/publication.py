"""Signs what was built and publishes it: checkpoint first, then the engine that came from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from enginekeeper.configs.vllm_bundle import RECIPE
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.keys import calibration_digest
from enginekeeper.orchestration.stages import Checkpoint, Made
from enginekeeper.specs.variants import Variant
from registry import types
from registry.attestations import BuildRecord, provenance, sign
from registry.digests import Digest
from registry.errors import RecordNotFoundError
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.publishing import CheckpointPublication, EnginePublication
from registry.trust import Purpose
from registry.types import Engine, EngineNames, Repair
from registry.verification import build_parameters


@dataclass(frozen=True)
class BuildRun:
    """The run that made something: recorded with the product, signed whenever it is."""

    invocation: str
    """Name of the folder below `runs` that has the log."""

    started_at: datetime
    finished_at: datetime

    @classmethod
    def of(cls, compiled: Made) -> BuildRun:
        """Returns the run that a compiled engine was made in, now or long ago."""
        run = compiled.record["run"]
        started, finished = (
            datetime.fromtimestamp(run[name], UTC) for name in ("started", "finished")
        )
        return cls(run["invocation"], started, finished)

    @classmethod
    def ending_now(cls, bench: Bench, seconds: float) -> BuildRun:
        """Returns this run, of which something has just been finished."""
        finished = datetime.now(UTC)
        return cls(bench.shop.logs.name, finished - timedelta(seconds=seconds), finished)


@dataclass(frozen=True)
class Maker:
    """What made an engine: recorded in its provenance."""

    kind: str = "inductor"
    toolchain: str = "inductor"
    simulated: bool = False
    """Whether it was a double: then manifest, signature and rows say so."""

    @classmethod
    def of(cls, variant: Variant) -> Maker:
        """Returns what makes a variant's engines."""
        profile = variant.profile
        return cls(str(profile.maker), profile.name, profile.simulated)


@dataclass(frozen=True)
class BuiltEngine:
    """An engine directory and everything its provenance states."""

    directory: Path
    key: EngineKey
    names: EngineNames
    weights: Digest
    checkpoint: Checkpoint | None
    """None for a serving bundle, which has the source itself in it."""

    repairs: tuple[Repair, ...]
    run: BuildRun
    maker: Maker = Maker()
    timing_cache: Digest | None = None
    """The one that the build started with."""


@dataclass(frozen=True)
class SignedEngine:
    """The manifest of an engine directory, and the builder's signed statement about it."""

    manifest: Manifest
    provenance: bytes


def names_of(variant: Variant, model: str) -> EngineNames:
    """Returns what an engine of a variant goes by, under its model's name in the catalogue."""
    recipe = RECIPE if variant.is_vllm_bundle else variant.recipe.kind
    return EngineNames(model, recipe, variant.target.gpu, str(variant.identifier))


def sign_engine(bench: Bench, built: BuiltEngine) -> SignedEngine:
    """Signs an engine with the builder's key; publishes nothing."""
    manifest = _manifest(built)
    record = build_record(
        f"builder:{built.maker.kind}",
        built.run,
        materials={
            "model": built.weights,
            **({} if built.checkpoint is None else {"checkpoint": built.checkpoint.digest}),
            "toolchain": bench.shop.lock_of(built.maker.toolchain),
            **({} if built.timing_cache is None else {"timing_cache": built.timing_cache}),
        },
        parameters={
            **build_parameters(built.names, built.weights),
            "repairs": [asdict(repair) for repair in built.repairs],
        },
    )
    statement = provenance(manifest, built.key, record)
    signers = bench.signers(Purpose.BUILD, simulated=built.maker.simulated)
    return SignedEngine(manifest, sign(statement, *signers))


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
    """Publishes a checkpoint and the engine built from it; of a serving bundle, that alone.

    An engine that is recorded keeps its names and the statement signed when it was built:
    nothing is signed again, and its files are put back if the store lost or damaged them. Only
    where the signer of that statement is not trusted any more is it signed anew.
    """
    checkpoint = None
    if built.checkpoint is not None:
        path = built.checkpoint.path
        checkpoint = publish_checkpoint(bench, variant, built.weights, path, built.repairs)
    known, key = _recorded(bench, _manifest(built).digest), built.key
    if known is None:
        signed, names = sign_engine(bench, built), built.names
    elif bench.registry.is_withdrawn(known):
        signed, names = sign_engine(bench, replace(built, names=known.names)), known.names
    else:
        signed, names = SignedEngine(_manifest(built), known.provenance.encode()), known.names
        key = known.key  # its soft and info layers are those of that statement
    return bench.registry.publish_engine(
        EnginePublication(
            directory=built.directory,
            manifest=signed.manifest,
            key=key,
            provenance=signed.provenance,
            model=built.weights,
            recipe=names.recipe,
            target=names.target,
            variant=names.variant,
            checkpoint=None if checkpoint is None else checkpoint.digest,
        )
    )


def _manifest(built: BuiltEngine) -> Manifest:
    return Manifest.of_directory(
        built.directory, "engine", key=built.key.digest(), simulated=built.maker.simulated
    )


def _recorded(bench: Bench, digest: Digest) -> Engine | None:
    try:
        return bench.registry.engine(digest)
    except RecordNotFoundError:
        return None


def build_record(
    role: str, run: BuildRun, *, materials: Mapping[str, Digest], parameters: Mapping[str, Any]
) -> BuildRecord:
    """Returns what is signed of how something was made."""
    return BuildRecord(
        builder=f"urn:enginekeeper:{role}",
        invocation=run.invocation,
        started_at=run.started_at,
        finished_at=run.finished_at,
        materials=materials,
        parameters=parameters,
        signed_at=datetime.now(UTC),
    )
