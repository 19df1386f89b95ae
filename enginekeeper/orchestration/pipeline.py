"""The build pipeline, one function per step; `flows/build.py` makes each of them a task.

A variant moves through the functions as a `Progress`, each adding what it made. What a step
needs is named by digest in the work store, so that running any of them again finds the product.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from enginekeeper.building.inductor import InductorBuilder
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.configs.vllm_bundle import MODEL
from enginekeeper.errors import MissingError
from enginekeeper.orchestration import stages
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.bundling import bundling
from enginekeeper.orchestration.channels import into_channel
from enginekeeper.orchestration.environments import environment_of
from enginekeeper.orchestration.exports import Export, keep_export
from enginekeeper.orchestration.failing import remembering
from enginekeeper.orchestration.keys import calibration_path, engine_key
from enginekeeper.orchestration.launching import runs_elsewhere
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Failure, Outcome
from enginekeeper.orchestration.plan import Action, PlannedVariant
from enginekeeper.orchestration.planning import (
    architecture_of,
    as_ordered,
    plan_variants,
    planned_outcome,
)
from enginekeeper.orchestration.publication import (
    BuildRun,
    BuiltEngine,
    Maker,
    names_of,
    publish,
    publish_checkpoint,
)
from enginekeeper.orchestration.pytorch_bundling import bundle_compilation
from enginekeeper.orchestration.references import (
    fetch_reference,
    outlives_its_signer,
    record_reference,
)
from enginekeeper.orchestration.refitting import storage, stripped_info
from enginekeeper.orchestration.repairing import repaired
from enginekeeper.orchestration.simulation import simulated_compilation
from enginekeeper.orchestration.stages import (
    Checkpoint,
    Compilation,
    Made,
    Probe,
    Scoring,
    Source,
)
from enginekeeper.orchestration.timing import started_from, timing_of
from enginekeeper.sources.prefix import PrefixReader
from enginekeeper.sources.resolve import resolve_source
from enginekeeper.specs.recipes import Recipe
from enginekeeper.specs.source import ModelSource
from enginekeeper.specs.variants import Variant
from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import AuditReport, faults
from registry.disks import full_disk_said
from registry.errors import DiagnosedError
from registry.types import Engine, Reference, Repair

progress = logging.getLogger("enginekeeper.progress")

Thing = TypeVar("Thing")
_BUILD_MINUTES = 240
"""Large models take hours to build; what hangs ends, too."""

_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")


@dataclass(frozen=True)
class Work:
    """One run of the flow: what was asked, what is planned, what is shared by all variants."""

    order: BuildOrder
    planned: tuple[PlannedVariant, ...]
    source: Source | None = None
    probe: Probe | None = None
    second: Made | None = None
    """The source under transformers: checks the reference."""

    ended: dict[str, Outcome] = field(default_factory=dict)
    audits: dict[str, tuple[AuditReport, ...]] = field(default_factory=dict)
    """The reports on each variant's checkpoint, as far as there are any."""

    @property
    def todo(self) -> tuple[PlannedVariant, ...]:
        """The variants that the plan does not settle, in its order."""
        audits = self.order.audits
        return tuple(one for one in self.planned if not one.settled(audits=audits))

    def outcomes(self) -> list[Outcome]:
        """Returns every variant's outcome, in the plan's order."""
        return [
            self.ended.get(one.variant.identifier) or planned_outcome(one) for one in self.planned
        ]

    def end(self, outcome: Outcome) -> None:
        """Records how a variant ended."""
        self.ended[outcome.variant] = outcome
        progress.info("%s: %s %s", outcome.variant, outcome.ending, outcome.result or "")

    @contextmanager
    def catching(self, planned: PlannedVariant) -> Iterator[None]:
        """Records a variant's known errors as its outcome, so that the others go on.

        What its audits had found comes first: it is the likelier reason.
        """
        try:
            with full_disk_said():
                yield
        except DiagnosedError as error:
            name = str(planned.variant.identifier)
            self.end(
                Outcome(
                    variant=name,
                    ending=Ending.FAILED,
                    result=None,
                    summary="\n".join((*faults(self.audits.get(name, ())), str(error))),
                    failure=Failure.of(error),
                    simulated=planned.variant.profile.simulated,
                )
            )


@dataclass(frozen=True)
class Progress:
    """How far one variant has come."""

    planned: PlannedVariant
    exported: Made
    """The checkpoint as ModelOpt wrote it; that of a known engine as it was published."""

    checkpoint: Checkpoint
    """The checkpoint that is built from: the exported one, or its repaired copy."""

    repairs: tuple[Repair, ...]
    audits: tuple[AuditReport, ...] = ()
    compiled: Made | None = None
    engine: Engine | None = None
    refitted: Made | None = None
    """A stripped engine with its weights: what runs, and is judged."""

    scores: Made | None = None
    twin: Made | None = None
    probes: Made | None = None
    layers: Made | None = None
    texts: Made | None = None
    """What came of the tokenizer that is shipped with the engine, or will serve it."""

    validation: Made | None = None
    """Scores of the engine's validation twin, where one was asked for."""

    @property
    def variant(self) -> Variant:
        """The variant itself."""
        return self.planned.variant

    @property
    def export_only(self) -> bool:
        """Whether nothing here can run the engine."""
        return self.planned.action is Action.EXPORT

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the stages that were made in this run."""
        made = {
            "quantize": self.exported,
            "compile": self.compiled,
            "refit": self.refitted,
            "twin": self.twin,
            "score": self.scores,
            "probe": self.probes,
            "layers": self.layers,
            "tokenizer": self.texts,
            "validation_twin": self.validation,
        }
        return {
            name: round(one.seconds, 1)
            for name, one in made.items()
            if one is not None and not one.reused
        }


def begin(planned: Sequence[PlannedVariant], order: BuildOrder) -> Work:
    """Starts a run and says what it will do."""
    work = Work(order, tuple(planned))
    for one in work.planned:
        progress.info("%s: %s (%s)", one.variant.identifier, one.action, one.rule)
    return work


def fetch_source(bench: Bench, work: Work) -> Work:
    """Brings the source model to this machine, and plans again with what it says of itself."""
    variants = [one.asked for one in work.planned]
    progress.info("source: %s ...", variants[0].model.name)
    found = resolve_source(
        variants[0].model,
        bench.settings,
        python_for=bench.shop.python_of,
        reader=_prefix_reader(variants[0].model),
    )
    source = Source(found.path, found.digest, found.note, found.files)
    if source.note is not None:
        progress.info("source: %s: %s", variants[0].model.name, source.note)
    bench.registry.record_model(
        source.digest,
        variants[0].model.name,
        source=str(variants[0].model.kind),
        architecture=architecture_of(source),
    )
    again = plan_variants(bench, variants, source, retry_failed=work.order.retry_failed)
    planned = as_ordered(bench, work.order, again)
    return replace(work, source=source, planned=planned)


def _prefix_reader(model: ModelSource) -> PrefixReader | None:
    if model.s3 is None:
        return None
    from registry.blobs.s3_prefix import S3PrefixReader  # noqa: PLC0415 - boto3 takes 0.2 s

    return S3PrefixReader()


def make_reference(bench: Bench, work: Work) -> Work:
    """Tokenizes the suite and scores the source, under vLLM and under transformers.

    A reference that the registry has is fetched, verified, and not made.
    """
    variant, source = work.planned[0].variant, source_of(work)
    suite = bench.suites.open(variant.suite)
    dtype = variant.reference.dtype
    scoring = Scoring(
        suite=suite.path,
        suite_digest=suite.digest,
        max_tokens_per_prompt=variant.limits.max_input_len,
        top_k=variant.reference.top_k,
        reference_toolchain=bench.shop.reference_toolchain(),
        reference_dtype="float32" if dtype == "auto" else dtype,
    )
    tokens = stages.tokenize(bench.shop, source, scoring)
    score = partial(
        stages.score_reference, bench.shop, source, scoring, tokens, partial(fetch_reference, bench)
    )
    reference = score()
    if outlives_its_signer(bench, reference):
        progress.info("reference: its signer is not trusted any more; it is made anew")
        bench.shop.work.forget("reference", reference.key)
        reference = score()
    probe = Probe(scoring, tokens, {"source": reference})
    second = stages.score_model(bench.shop, source.path, source.digest, probe, "source")
    return replace(work, probe=probe, second=second)


def publish_reference(bench: Bench, work: Work) -> Reference:
    """Publishes the reference, so that no other machine makes it and verdicts can name it."""
    reference = record_reference(bench, there(work.probe), source_of(work).digest)
    progress.info("reference: %s is in the registry", reference.digest.short)
    return reference


def make_checkpoint(bench: Bench, work: Work, planned: PlannedVariant) -> Progress:
    """Quantizes the source by a variant's recipe and repairs known export defects, on record."""
    variant, source = planned.variant, source_of(work)
    if variant.is_vllm_bundle:
        return _as_it_is(planned, source)
    request = {
        "recipe": str(variant.recipe.recipe),
        "kv_cache": str(variant.recipe.kv_cache),
        "group_size": variant.recipe.group or 128,
        "exclude_modules": list(variant.recipe.exclude_modules),
        "calibration": {
            "path": str(calibration_path(variant)),
            "samples": variant.calibration.samples,
            "max_tokens": variant.calibration.max_tokens,
            "seed": variant.calibration.seed,
        },
        "tensor_parallel": variant.parallel.tensor,
        "pipeline_parallel": variant.parallel.pipeline,
        "dtype": "bfloat16",
    }
    if variant.backend == "pytorch":  # whoever loads it gives each rank its share
        one = {"tensor_parallel": 1, "pipeline_parallel": 1}
        request = {**request, **one, "format": "huggingface"}
    exported = stages.quantize(bench.shop, source, variant.identifier, request)
    wanted = variant.recipe.repair == "auto" and variant.backend == "engine"
    checkpoint, repairs = repaired(bench.shop, source, exported, wanted=wanted)
    for repair in repairs:
        progress.info("%s: repaired %s: %s", variant.identifier, repair.field, repair.reason)
    return Progress(planned, exported, checkpoint, repairs)


def _as_it_is(planned: PlannedVariant, source: Source) -> Progress:
    """Returns how far a serving bundle is before it is made: its model is the source itself."""
    files = {one.name: one.sha256 for one in source.files}
    made = Made(source.path, source.digest, reused=True, seconds=0.0, record={"files": files})
    return Progress(planned, made, Checkpoint(source.path, source.digest), ())


def fetch_engine(bench: Bench, planned: PlannedVariant) -> Progress:
    """Brings a known engine and its checkpoint here, verified, to be judged as they are."""
    engine, registry = there(planned.known).engine, bench.registry
    progress.info("%s: fetch engine %s ...", planned.variant.identifier, engine.digest.short)
    compiled = stages.fetched(
        bench.shop, "engine", engine.digest, partial(registry.fetch_engine, engine.digest)
    )
    compiled = replace(compiled, reused=True)
    if planned.variant.is_vllm_bundle:
        inside = Checkpoint(compiled.path / "engine" / MODEL, engine.model)
        return Progress(planned, compiled, inside, (), compiled=compiled, engine=engine)
    if engine.checkpoint is None:
        raise MissingError(
            "the engine was published without its checkpoint, which its recipe twin is made from",
            where=planned.variant.identifier,
            actual=f"engine {engine.digest.short}",
        )
    checkpoint = registry.checkpoint(engine.checkpoint)
    export = stages.fetched(
        bench.shop,
        "checkpoint",
        checkpoint.digest,
        partial(registry.fetch_checkpoint, checkpoint.digest),
    )
    return Progress(
        planned,
        replace(export, reused=True),
        Checkpoint(export.path / "checkpoint", checkpoint.digest),
        checkpoint.repairs,
        compiled=compiled,
        engine=engine,
    )


def audit_checkpoint(work: Work, made: Progress) -> Progress:
    """Audits the checkpoint against source and recipe, unless the run was asked not to.

    A serving bundle has none; it is held against the source itself when it is scored.
    """
    if made.variant.is_vllm_bundle:
        return made
    return audited(work, made, made.variant.recipe)


def audited(work: Work, made: Progress, asked: Recipe | None) -> Progress:
    """Adds the reports of the audits; `asked` is None where nobody said which recipe it is."""
    if not work.order.audits:
        return made
    name = made.variant.identifier
    progress.info("%s: audit ...", name)
    audits = audit(source_of(work).path, made.checkpoint.path, asked)
    for report in audits:
        progress.info("%s: audit %s: %s", name, report.check, report.result)
    work.audits[name] = audits
    return replace(made, audits=audits)


def export_checkpoint(bench: Bench, work: Work, made: Progress) -> Outcome:
    """Publishes a checkpoint that nothing here can run, and ends the variant.

    Without audits it is not remembered: the next plan exports it again, and audits it.
    """
    found = {report.result for report in made.audits}
    variant, weights, path = made.variant, source_of(work).digest, made.checkpoint.path
    export = Export(
        checkpoint=publish_checkpoint(bench, variant, weights, path, made.repairs),
        # a clean export is no engine that passed; one with findings fails like any other
        result=next((name for name in ("fail", "inconclusive") if name in found), None),
        audits=", ".join(f"{one.check} {one.result}" for one in made.audits) or "not run",
    )
    if work.order.audits:
        keep_export(bench, engine_key(variant, weights, bench.host, bench.tools), export)
    outcome = Outcome(
        variant=str(variant.identifier),
        ending=Ending.EXPORTED,
        result=export.result,
        summary=f"checkpoint {export.checkpoint.digest.short} published, audits: {export.audits}. "
        f"{made.planned.reason}",
        path=bench.registry.locate(export.checkpoint.path),
        seconds=made.seconds,
    )
    work.end(outcome)
    return outcome


def make_engine(bench: Bench, made: Progress) -> Progress:
    """Compiles the checkpoint, or bundles the source; says what came out otherwise than asked."""
    variant = made.variant
    if variant.is_vllm_bundle:
        progress.info("%s: vLLM serving bundle, no engine", variant.identifier)
        compilation = bundling(bench, variant, made.exported, _limits(variant))
    else:
        compilation = compilation_of(bench, variant)
    name, key = variant.identifier, made.planned.key
    with nullcontext() if key is None else remembering(bench, variant, key):
        compiled = stages.compile_engine(bench.shop, made.checkpoint, name, compilation)
    report = compiled.record.get("report", {})
    for one in report.get("differences", ()):
        said = f"asked for {one['requested']}, came out as {one['effective']}"
        progress.info("%s: --%s: %s", variant.identifier, one["option"], said)
    for warning in report.get("warnings", ()):
        progress.info("%s: warning: %s", variant.identifier, warning)
    return replace(made, compiled=compiled)


def _limits(variant: Variant) -> dict[str, int]:
    return {name: getattr(variant.limits, name) for name in _LIMITS}


def compilation_of(bench: Bench, variant: Variant) -> Compilation:
    """Returns what makes a variant's engine, and what is asked of it."""
    limits = _limits(variant)
    if variant.profile.simulated:
        progress.info("%s: SIMULATED: a double builds it, no GPU", variant.identifier)
        return simulated_compilation(bench, variant, limits)
    if variant.backend == "pytorch":
        return bundle_compilation(variant, limits)
    release, product = variant.profile.release, variant.target.product
    if release is not None and product is not None:
        builder = TensorrtLlmBuilder(release, product, variant.profile.name)
        if runs_elsewhere(builder.toolchain, bench.settings):
            builder = replace(builder, host_memory=None)
        return Compilation(
            builder,
            limits,
            variant.build.given,
            bound={"gpu": product.product},
            minutes=_BUILD_MINUTES,
            timing=timing_of(bench, variant, product),
        )
    return Compilation(InductorBuilder(shared_graphs=bench.shop.work.root / "graphs"), limits)


def publish_engine(bench: Bench, work: Work, made: Progress) -> Progress:
    """Signs the engine's provenance with the builder's key, if it is new, and publishes it."""
    variant, compiled = made.variant, there(made.compiled)
    weights = source_of(work).digest
    key = engine_key(variant, weights, bench.host, bench.tools)
    if variant.build.strip_plan:
        info = stripped_info(compiled.path / "engine", made.checkpoint.path)
        key = replace(key, info={**key.info, **info})
    built = BuiltEngine(
        directory=compiled.path / "engine",
        key=key,
        names=names_of(variant, bench.registry.model(weights).name),
        weights=weights,
        checkpoint=None if variant.is_vllm_bundle else made.checkpoint,
        repairs=made.repairs,
        run=BuildRun.of(compiled),
        maker=Maker.of(variant),
        timing_cache=started_from(compiled.record),
    )
    engine = publish(bench, built, variant)
    where = environment_of(bench, engine.key)
    gate = bench.registry.gate(engine.digest, where, simulated_node=engine.simulated)
    marks = (
        " (SIMULATED)" if engine.simulated else "",
        " (vLLM bundle)" if variant.is_vllm_bundle else "",
    )
    name = f"{engine.digest.short}{''.join(marks)}"
    progress.info(
        "%s: published %s, gate %s: %s", variant.identifier, name, gate.outcome, gate.rule
    )
    if variant.build.strip_plan:
        progress.info("%s: %s", variant.identifier, storage(bench, engine))
    return replace(made, engine=engine)


def conclude(bench: Bench, work: Work) -> list[Outcome]:
    """Returns how every variant ended; reused engines go into the channel asked for."""
    # those that were judged are there already, or refused
    return [
        into_channel(bench, work.order.channel, one) if one.ending is Ending.REUSED else one
        for one in work.outcomes()
    ]


def source_of(work: Work) -> Source:
    """Returns the source model of a run."""
    return there(work.source)


def there(thing: Thing | None) -> Thing:
    """Returns what an earlier stage made; a flow that calls stages out of order is a defect."""
    if thing is None:
        raise AssertionError("a stage was run before the one it needs")
    return thing
