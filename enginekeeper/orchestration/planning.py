"""Plans a spec file on this machine: what is known here, and what is settled without any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from enginekeeper.compatibility.decision import blocking
from enginekeeper.compatibility.facts import ModelFacts, facts_of, model_facts
from enginekeeper.compatibility.memory_plan import MemoryPlan, memory_plan
from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.environments import environment_of
from enginekeeper.orchestration.exports import find_export
from enginekeeper.orchestration.failing import known_failures
from enginekeeper.orchestration.keys import engine_key
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Failure, Outcome
from enginekeeper.orchestration.plan import (
    Action,
    Knowledge,
    KnownEngine,
    PlannedVariant,
    UnknownKey,
    WithdrawnEngine,
    plan,
)
from enginekeeper.orchestration.stages import Source
from enginekeeper.orchestration.tools import COMPILE_STEPS, DOUBLE, DOUBLE_OF_THE_API
from enginekeeper.sources.resolve import find_source
from enginekeeper.specs.fallback import served_by_vllm_alone
from enginekeeper.specs.loader import load_variants
from enginekeeper.specs.profiles import double_of
from enginekeeper.specs.selectors import selection
from enginekeeper.specs.variants import Variant
from registry.digests import Digest, digest_document
from registry.errors import WithdrawnError
from registry.keys import EngineKey
from registry.service import Registry
from registry.standing import Standing
from registry.types import Engine, EngineFilter, Verdict


def plan_spec(
    bench: Bench,
    path: Path | str,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    *,
    retry_failed: bool = False,
) -> tuple[PlannedVariant, ...]:
    """Plans the selected variants of a spec with what is on this machine already."""
    variants = selection(only, skip).of(load_variants(Path(path)))
    found = find_source(variants[0].model, bench.settings, base=Path(path).parent)
    source = None if found is None else Source(found.path, found.digest)
    return plan_variants(bench, variants, source, retry_failed=retry_failed)


def memory_by_config(
    path: Path, config: Path, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> list[tuple[str, MemoryPlan | None]]:
    """Returns what fits of each selected variant of a spec, by its model's config.json alone."""
    variants = selection(only, skip).of(load_variants(path))
    model = model_facts(read_json_object(config), str(config))
    return [(str(one.identifier), memory_plan(one, facts_of(one, model))) for one in variants]


def plan_order(bench: Bench, order: BuildOrder) -> tuple[PlannedVariant, ...]:
    """Plans what an order asks for, with what is on this machine already."""
    planned = plan_spec(bench, order.path, order.only, order.skip, retry_failed=order.retry_failed)
    return as_ordered(bench, order, planned)


def as_ordered(
    bench: Bench, order: BuildOrder, planned: Sequence[PlannedVariant]
) -> tuple[PlannedVariant, ...]:
    """Lets the engines that an order names stand for the plan of their variants: as they are.

    Raises RecordNotFoundError for an engine that the catalogue does not know.
    """
    if (
        not order.engines
    ):  # then nobody has to be asked: whatever is not reached is tried again later
        return tuple(planned)
    with bench.registry.catalogue.read() as view:
        asked = {one.variant: one for one in map(view.engine, order.engines)}
    named = ((one, asked.get(str(one.variant.identifier))) for one in planned)
    return tuple(one if engine is None else _as_it_is(bench, one, engine) for one, engine in named)


def _as_it_is(bench: Bench, planned: PlannedVariant, engine: Engine) -> PlannedVariant:
    """Plans to judge an engine anew, if it can run here and no verdict answers what is asked.

    Where its builder is not trusted any more the variant's own plan stands: it is built anew.
    """
    if planned.action is Action.REFUSE:
        return planned
    held = bench.registry.held(engine)
    name, stored = engine.digest.short, bench.registry.locate(engine.path)
    as_it_is = replace(
        planned, key=engine.key, known=KnownEngine(engine, None, stored), estimate=None,
        reason=f"engine {name} is judged where its GPU is",
    )  # fmt: skip
    if held is not None and held.kind is Standing.REVOKED:
        return replace(as_it_is, action=Action.REFUSE, rule="revoked", reason=str(held))
    if planned.action is Action.ELSEWHERE:
        return as_it_is
    try:
        bench.registry.verify_engine(engine)
    except WithdrawnError:
        return planned
    if against := blocking(engine.key, environment_of(bench, engine.key)):
        rule, reason = against[0].rule.identifier, str(against[0])
        return replace(as_it_is, action=Action.REFUSE, rule=rule, reason=reason)
    verdict, lost = _verdict(bench, engine, str(acceptance_digest(bench, planned.variant)))
    known = KnownEngine(engine, verdict, stored, lost)
    if verdict is None:
        reason = f"engine {name} was not judged here by this acceptance and this validator"
        action, rule = Action.REVALIDATE, "no-verdict"
    else:
        reason = f"engine {name} was judged here; its verdict is {verdict.result}"
        action, rule = Action.REUSE, "same-engine"
    return replace(as_it_is, action=action, rule=rule, reason=reason, known=known)


def plan_variants(
    bench: Bench,
    variants: Sequence[Variant],
    source: Source | None,
    *,
    retry_failed: bool = False,
) -> tuple[PlannedVariant, ...]:
    """Plans variants of one model whose source is here, or is not."""
    failures = cache(partial(known_failures, bench))  # asked once, and not where nothing is built
    knowledge = Knowledge(
        model=None if source is None else _facts(source),
        architecture=None if source is None else architecture_of(source),
        key_of=lambda variant: _key(bench, variant, source),
        known=lambda variant, key: _known(bench, variant, key),
        exported=lambda key: find_export(bench, key),
        failed=lambda key: None if retry_failed else failures().get(key.digest()),
        makers=COMPILE_STEPS,
        gpus=lambda: {kind.product for kind in bench.gpus},
    )
    return plan(variants, knowledge)


def architecture_of(source: Source) -> str:
    """Returns the name of a source model's class; raises InputError where its config has none."""
    config = source.path / "config.json"
    name = HfConfig.of(read_json_object(config), str(config)).architecture
    if name is None:
        raise InputError(
            "architectures is missing", where=str(config),
            expected="a list with the name of the model's class",
        )  # fmt: skip
    return name


def _facts(source: Source) -> ModelFacts | None:
    """Reads what the rules need to know of a source model.

    What only vLLM serves may say less than they need: nothing of it is built by them.
    """
    config = source.path / "config.json"
    try:
        return model_facts(read_json_object(config), str(config))
    except InputError:
        if served_by_vllm_alone(architecture_of(source)):
            return None
        raise


def acceptance_digest(bench: Bench, variant: Variant) -> Digest:
    """Names what a verdict answers: limits, suite, reference and validator; rule 5 of the plan."""
    asked: dict[str, Any] = {
        "acceptance": asdict(variant.acceptance),
        "suite": str(bench.suites.find(variant.suite).digest),
        "reference": asdict(variant.reference),
        "validator": str(bench.validator),
    }
    if variant.profile.simulated:
        asked["double"] = bench.shop.code(DOUBLE, DOUBLE_OF_THE_API)  # they run what they built
    return digest_document(asked, "ek-acceptance-v2")


def planned_outcome(planned: PlannedVariant) -> Outcome:
    """Returns the outcome of a variant for which nothing is to be done."""
    if planned.action is Action.ELSEWHERE:
        return _elsewhere(planned)
    if (export := planned.exported) is not None:
        name = str(planned.variant.identifier)
        path = export.checkpoint.path
        return Outcome(name, Ending.REUSED, export.result, planned.reason, path=path)
    known = planned.known
    verdict = None if known is None else known.verdict
    return Outcome(
        variant=str(planned.variant.identifier),
        ending=Ending.REFUSED if planned.action is Action.REFUSE else Ending.REUSED,
        result=None if verdict is None else str(verdict.result),
        summary=planned.reason if verdict is None else f"{planned.reason}. {verdict.summary}",
        engine=None if known is None else str(known.engine.digest),
        path=None if known is None else known.stored,
        simulated=planned.variant.profile.simulated,
        serving_bundle=planned.variant.is_vllm_bundle,
        fidelity=None if verdict is None else verdict.fidelity,
        quality=None if verdict is None else verdict.quality,
    )


def _elsewhere(planned: PlannedVariant) -> Outcome:
    double = double_of(planned.variant.toolchain)
    simulate = "" if double is None else f"; to try the pipeline with doubles: toolchain: {double}"
    error = UnavailableError(
        planned.reason,
        where=planned.variant.identifier,
        remedy=f"leave it out with --only, or give it the target cpu{simulate}",
    )
    return Outcome(
        variant=str(planned.variant.identifier),
        ending=Ending.FAILED,
        result=None,
        summary=str(error),
        failure=Failure.of(error),
    )


def _key(bench: Bench, variant: Variant, source: Source | None) -> EngineKey | UnknownKey:
    if source is None:
        return UnknownKey("source-not-fetched", "the source model is not on this machine yet")
    host, tools = bench.host, bench.tools
    try:
        key = engine_key(variant, source.digest, host, tools)
    except UnavailableError as error:
        return UnknownKey("toolchain-not-locked", error.what)
    environment_of(bench, key)  # raises now, not when hours of work are to be judged
    return key


def _known(bench: Bench, variant: Variant, key: EngineKey) -> KnownEngine | WithdrawnEngine | None:
    """Returns the newest engine of a key, one with a verdict before one without.

    One that was revoked is passed over: it is built anew.

    Raises IntegrityError when an engine or a verdict is recorded otherwise than it was signed:
    what somebody changed is neither reused nor passed over. What a key signed that is not trusted
    any more, as the trust file says, is passed over: that was somebody's decision.
    """
    registry = bench.registry
    asked = str(acceptance_digest(bench, variant))
    known: list[KnownEngine] = []
    withdrawn: list[WithdrawnEngine] = []
    for engine in registry.engines(EngineFilter(key=key.digest())):
        if _is_revoked(registry, engine):
            continue
        try:
            registry.verify_engine(engine)
        except WithdrawnError as error:
            withdrawn.append(WithdrawnEngine(engine, str(error.actual)))
            continue
        verdict, lost = _verdict(bench, engine, asked)
        known.append(KnownEngine(engine, verdict, registry.locate(engine.path), lost))
    judged = [one for one in known if one.verdict is not None]
    found: list[KnownEngine] | list[WithdrawnEngine] = judged or known or withdrawn
    return found[0] if found else None


def _is_revoked(registry: Registry, engine: Engine) -> bool:
    held = registry.held(engine)
    return held is not None and held.kind is Standing.REVOKED


def _verdict(bench: Bench, engine: Engine, asked: str) -> tuple[Verdict | None, str | None]:
    """Returns the latest verdict here that answers what is asked now.

    Variants that differ in label and acceptance alone share an engine: each has its own verdict.
    With it comes why a verdict is passed over, if its signer is not trusted any more.
    """
    registry = bench.registry
    counting, lost = [], None
    for verdict in registry.verdicts(engine.digest):
        try:
            registry.verify_verdict(engine, verdict)
        except WithdrawnError as error:
            lost = lost or str(error.actual)
            continue
        counting.append(verdict)
    environment = environment_of(bench, engine.key)
    for verdict in counting:
        if verdict.environment == environment:
            document: dict[str, Any] = registry.verdict_document(verdict)
            if document.get("acceptance") == asked:
                return verdict, lost
    return None, lost
