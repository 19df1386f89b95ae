"""Judges a checkpoint that somebody else made, by building it here; publishes nothing."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enginekeeper.orchestration import stages
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.judging import decide, score_engine
from enginekeeper.orchestration.keys import engine_key, external_key
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.pipeline import (
    Progress,
    Work,
    audited,
    make_engine,
    make_reference,
    source_of,
    there,
)
from enginekeeper.orchestration.plan import Action, PlannedVariant
from enginekeeper.orchestration.publication import (
    BuildRun,
    BuiltEngine,
    names_of,
    sign_engine,
)
from enginekeeper.orchestration.stages import Made, Source
from enginekeeper.sources.inspection import inspect_model
from enginekeeper.sources.tokenizer_files import has_tokenizer
from enginekeeper.specs.acceptance import AcceptanceOverride, acceptance_of
from enginekeeper.specs.build_options import Build
from enginekeeper.specs.model import Calibration, Limits, Parallel, Reference
from enginekeeper.specs.source import ModelSource
from enginekeeper.specs.targets import Target
from enginekeeper.specs.variants import Variant
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.recipe_audit import recipe_of
from enginekeeper.validation.source_model import SourceModel
from registry.manifests import Manifest
from registry.types import Engine

progress = logging.getLogger("enginekeeper.progress")


_DEEP_CONTEXT = 8192
"""Tokens; the longest prompt of `deep` has 6,832 in the tokens of SmolLM2."""


@dataclass(frozen=True)
class ValidationRequest:
    """A checkpoint, the model it was made from, and how it is to be judged."""

    checkpoint: Path
    model: Path
    suite: str = "smoke"
    audits: bool = True
    whole_suite: bool = False
    probes: bool = False
    tokenizer: Path | None = None
    """Directory of the tokenizer that will serve the engine, if not that of the checkpoint."""
    locate: bool = False
    acceptance: AcceptanceOverride = field(default_factory=AcceptanceOverride)


def validate_checkpoint(bench: Bench, request: ValidationRequest) -> dict[str, Any]:
    """Returns the verdict document on a checkpoint, built and run on this CPU."""
    model = inspect_model(request.model, bench.settings.cache / "models" / "inspected")
    variant = _variant(request)
    planned = PlannedVariant(variant, Action.BUILD, "asked-for", "", None, None, (), None)
    order = BuildOrder(
        path=str(request.checkpoint),
        audits=request.audits,
        whole_suite=request.whole_suite,
        probes=request.probes,
        tokenizer=_tokenizer(request),
        locate=request.locate,
    )
    work = Work(order, (planned,), source=Source(model.path, model.digest))
    manifest = Manifest.of_directory(request.checkpoint, "checkpoint")
    given = Made(request.checkpoint, manifest.digest, reused=True, seconds=0.0)
    made = Progress(planned, given, stages.Checkpoint(request.checkpoint, manifest.digest), ())
    made = audited(work, made, None)
    made = make_engine(bench, made)
    work = make_reference(bench, work)
    made = replace(made, engine=_signed(bench, work, made))
    _, document = decide(bench, work, score_engine(bench, work, made))
    return document


def _tokenizer(request: ValidationRequest) -> str | None:
    """Returns what will serve the engine: what is named, else what lies beside the checkpoint."""
    if request.tokenizer is not None:
        return str(request.tokenizer)
    return str(request.checkpoint) if has_tokenizer(request.checkpoint) else None


def _variant(request: ValidationRequest) -> Variant:
    """Returns the variant the checkpoint says it is: nobody else says what was asked for."""
    checkpoint = Checkpoint.open(request.checkpoint)
    geometry = Geometry.of(SourceModel.open(request.model).config)
    name = re.sub(r"[^a-z0-9]+", "-", request.model.resolve().name.lower()).strip("-")[:64]
    longest = checkpoint.config.max_position_embeddings or 2048
    recipe = recipe_of(checkpoint, geometry)
    acceptance, origins = acceptance_of(recipe.recipe, recipe.kv_cache, request.acceptance)
    return Variant(
        model=ModelSource(name=name or "model", path=str(request.model)),
        target=Target(gpu="cpu"),
        recipe=recipe,
        parallel=Parallel(),
        calibration=Calibration(),
        limits=_limits(request.suite, longest),
        toolchain="inductor",
        build=Build(),
        acceptance=acceptance,
        limits_from=origins,
        suite=request.suite,
        reference=Reference(),
    )


def _limits(suite: str, longest: int) -> Limits:
    """Returns requests as long as the suite needs: `deep` is of nothing but long contexts."""
    wanted = _DEEP_CONTEXT if suite.split("-v", maxsplit=1)[0] == "deep" else 512
    return Limits(
        max_input_len=min(wanted, longest), max_seq_len=min(2 * wanted, longest), max_batch_size=4
    )


def _signed(bench: Bench, work: Work, made: Progress) -> Engine:
    """Signs the engine like any other: nothing is loaded whose builder has not signed it."""
    variant, weights = made.variant, source_of(work).digest
    compiled = there(made.compiled)
    declared = engine_key(variant, weights, bench.host, bench.tools)
    key = external_key(declared, made.checkpoint.digest)
    names = names_of(variant, variant.model.name)
    built = BuiltEngine(
        directory=compiled.path / "engine",
        key=key,
        names=names,
        weights=weights,
        checkpoint=made.checkpoint,
        repairs=(),
        run=BuildRun.of(compiled),
    )
    signed = sign_engine(bench, built)
    return Engine(
        digest=signed.manifest.digest,
        key=key,
        model=weights,
        model_name=names.model,
        recipe=names.recipe,
        target=names.target,
        variant=names.variant,
        checkpoint=made.checkpoint.digest,
        size=signed.manifest.size,
        path="",
        provenance=signed.provenance.decode(),
        simulated=False,
        recorded_at=datetime.now(UTC),
    )
