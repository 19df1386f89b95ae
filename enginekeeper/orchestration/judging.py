"""Scores a published engine and its recipe twin on the same tokens, and judges it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from enginekeeper.building.engine_directory import is_stripped
from enginekeeper.documents import read_json_object
from enginekeeper.orchestration import stages
from enginekeeper.orchestration.asking import prober_of, require_askable, runner_of, says_all
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.bundling import audited_bundle, score_bundle
from enginekeeper.orchestration.channels import into_channel
from enginekeeper.orchestration.environments import environment_of
from enginekeeper.orchestration.export_arm import (
    TWIN_SCORES,
    forget_a_crash,
    read_checkpoint_twin,
    score_checkpoint_twin,
    why_no_checkpoint_twin,
)
from enginekeeper.orchestration.interim import Interim
from enginekeeper.orchestration.outcome import Ending, Outcome
from enginekeeper.orchestration.pipeline import Progress, Work, source_of, there
from enginekeeper.orchestration.planning import acceptance_digest
from enginekeeper.orchestration.refitting import refit_document, refitted
from enginekeeper.orchestration.simulation import (
    SignedDirectory,
    probe_simulated,
    score_simulated,
)
from enginekeeper.orchestration.stages import SCORES, Made, Probe
from enginekeeper.orchestration.tokenizer_probe import TEXTS, probe_tokenizer, shipped_with
from enginekeeper.orchestration.twin_probes import (
    ENDINGS,
    LAYERS,
    LINEARS,
    Beside,
    probe_beside_twin,
)
from enginekeeper.orchestration.validation_twins import score_validation_twin
from enginekeeper.specs.profiles import BuilderKind
from enginekeeper.validation.dictionary import (
    Culprit,
    Dictionary,
    codes_of,
    explain,
    load_dictionary,
)
from enginekeeper.validation.endings import load_endings
from enginekeeper.validation.evidence import Evidence, Stop
from enginekeeper.validation.layers import load_layers, load_linears
from enginekeeper.validation.pieces import read_pieces
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.probes import Counted, load_probes
from enginekeeper.validation.rounds import order_of, rounds_of
from enginekeeper.validation.scores import Scores, load_scores
from enginekeeper.validation.stopping import rule_at_the_end, rule_on_the_way
from enginekeeper.validation.tokenizers import load_texts, nothing_shipped
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.twin import write_recipe_twin
from enginekeeper.validation.verdict import Verdict, judge
from registry.attestations import VerdictClaim, sign, test_result
from registry.digests import Digest, canonical_json, digest_bytes, digest_file
from registry.manifests import Manifest, verify_directory
from registry.summaries import summary
from registry.trust import Purpose
from registry.types import Engine, Result

progress = logging.getLogger("enginekeeper.progress")

PROBE_PROMPTS = 8
"""As few as give a bound."""

DICTIONARY = "sensitivities.safetensors"
DICTIONARY_PROMPTS, DICTIONARY_POSITIONS = 24, 36
"""All prompts of `smoke`, and as much of each as makes 864 positions: prompts are the unit."""

NUDGED = "nudged.safetensors"
_NUDGE = {"relative": 3e-7, "seed": 1234}
"""Noise of two to three units in the last place of float32 (2**-23 = 1.2e-7) on every linear."""


def score_engine(bench: Bench, work: Work, made: Progress) -> Progress:
    """Scores the recipe twin and then the engine, whose signature and bytes are verified first.

    The engine's run ends as soon as its prompts decide, unless the whole suite was asked for.
    """
    probe, name = there(work.probe), made.variant.identifier
    if made.variant.is_vllm_bundle:
        return _score_bundle(bench, work, made, probe)
    twin = _score_twin(bench, work, made, probe)
    made = replace(made, twin=twin)
    compiled, engine = there(made.compiled), there(made.engine)
    _verify(bench, engine, compiled.path / "engine")
    both = replace(probe, targets={**probe.targets, "twin": twin})
    if engine.key.hard["builder"] == BuilderKind.INDUCTOR:
        runner, interim = stages.inductor_runner(compiled), _interim(work, made)
        scores = stages.score_engine(
            bench.shop, compiled, both, name, runner=runner, interim=interim
        )
        made = replace(made, scores=scores)
        return _probed(bench, work, made) if work.order.probes else made
    order = work.order
    require_askable(
        engine,
        {
            "--triton": order.triton,
            "--validation-twin": order.validation_twin,
        },
    )
    if work.order.validation_twin:
        made = replace(made, validation=score_validation_twin(bench, work, made, both))
    made = _with_weights(bench, made)
    loaded = there(made.refitted or made.compiled)
    if not engine.simulated:
        runner = runner_of(
            engine,
            loaded,
            source_of(work).path,
            served=work.order.served,
            triton=work.order.triton,
        )
        interim = None if work.order.over_http else _interim(work, made)
        scores = stages.score_engine(bench.shop, loaded, both, name, runner=runner, interim=interim)
        made = replace(made, scores=scores)
        return _probed(bench, work, made) if work.order.probes else made
    signed = SignedDirectory.of(engine, loaded.path / "engine")
    scores = score_simulated(
        bench.shop,
        source_of(work),
        signed,
        both,
        name,
        served=work.order.served,
        triton=work.order.triton,
    )
    made = replace(made, scores=scores)
    return _probed(bench, work, made) if work.order.probes else made


def _score_bundle(bench: Bench, work: Work, made: Progress, probe: Probe) -> Progress:
    """Audits a serving bundle and scores it as vLLM serves it; its twin is the source itself."""
    bundle, engine, name = there(made.compiled), there(made.engine), made.variant.identifier
    _verify(bench, engine, bundle.path / "engine")
    if work.order.audits:
        made = replace(made, audits=audited_bundle(name, source_of(work), bundle))
        work.audits[name] = made.audits
    if work.order.probes:
        progress.info("%s: of a serving bundle only the tokenizer is asked in other ways", name)
        made = _with_texts(bench, work, made)
    twin = there(work.second)
    both = replace(probe, targets={**probe.targets, "twin": twin})
    scores = score_bundle(bench, engine, bundle, both, name)
    return replace(made, twin=twin, scores=scores)


def _probed(bench: Bench, work: Work, made: Progress) -> Progress:
    """Asks an engine in other ways, unless its run has failed already."""
    stopped = there(made.scores).record.get("stopped") or {}
    if stopped.get("result") == "fail":
        return made
    made = _with_texts(bench, work, made)
    probe, name, engine = there(work.probe), made.variant.identifier, there(made.engine)
    order = order_of(rounds_of(probe.suite))[:PROBE_PROMPTS]
    loaded = there(made.refitted or made.compiled)
    if engine.simulated:
        signed = SignedDirectory.of(engine, loaded.path / "engine")
        asked = probe_simulated(bench.shop, source_of(work), signed, probe, order, name=name)
        return replace(made, probes=asked)
    inductor = engine.key.hard["builder"] == BuilderKind.INDUCTOR
    runner = None if inductor else prober_of(engine, loaded)
    asked = stages.probe_engine(bench.shop, loaded, probe, order, name, runner=runner)
    made = replace(made, probes=asked)
    if not inductor:
        return made
    shipped = _shipped(work, made)
    beside = Beside(source_of(work), made.checkpoint, shipped, probe, order, _NUDGE)
    return replace(made, layers=probe_beside_twin(bench.shop, loaded, beside, name=name))


def _with_texts(bench: Bench, work: Work, made: Progress) -> Progress:
    """Compares the tokenizer that serves the engine with its model's, where there is one."""
    shipped = _shipped(work, made)
    if shipped is None:
        return made
    name, probe = made.variant.identifier, there(work.probe)
    texts = probe_tokenizer(bench.shop, source_of(work), shipped, probe, name=name)
    return replace(made, texts=texts)


def _shipped(work: Work, made: Progress) -> Path | None:
    return shipped_with(there(made.compiled).path / "engine", work.order.tokenizer)


def _texts(work: Work, made: Progress) -> Mapping[str, Counted | str] | None:
    if made.texts is not None:
        return load_texts(made.texts.path / TEXTS)
    return nothing_shipped() if work.order.probes else None


def _interim(work: Work, made: Progress) -> Interim | None:
    """Prepares the decisions on the way, unless the whole suite was asked for.

    The other arms are read once, when the first is due.
    """
    if work.order.whole_suite:
        return None
    tokens = there(work.probe).suite
    arms = cache(partial(_arms, work, made, tokens))
    return Interim(
        tokens,
        lambda engine, order: replace(arms()(engine), scored=order),
        AcceptancePolicy(**asdict(made.variant.acceptance)),
    )


def _with_weights(bench: Bench, made: Progress) -> Progress:
    """Refits an engine that was built without its weights: it cannot run as it is."""
    plan, engine = there(made.compiled).path / "engine", there(made.engine)
    if not is_stripped(read_json_object(plan / "config.json")):
        return made
    name = made.variant.identifier
    return replace(made, refitted=refitted(bench, engine, plan, made.checkpoint.path, name))


def judge_engine(bench: Bench, work: Work, made: Progress) -> Outcome:
    """Judges the engine, signs and records the verdict, and ends the variant.

    A judgement that cannot qualify anything (without audits, or by choices alone where they show
    no fault) is shown and not recorded: it must not stand in the way of one that did.
    """
    variant, engine = made.variant, there(made.engine)
    verdict, document = decide(bench, work, made)
    if _is_recorded(work, made, str(verdict.result)):
        _record(bench, engine, verdict, document)
    outcome = Outcome(
        variant=str(variant.identifier),
        ending=Ending.JUDGED,
        result=str(verdict.result),
        summary=verdict.summary,
        engine=str(engine.digest),
        path=bench.registry.locate(engine.path),
        fidelity=verdict.fidelity.result,
        quality=verdict.quality.result,
        seconds=made.seconds,
        simulated=engine.simulated,
        serving_bundle=variant.is_vllm_bundle,
    )
    outcome = _in_channel(bench, work, made, outcome)
    work.end(outcome)
    return outcome


def _is_recorded(work: Work, made: Progress, result: str) -> bool:
    if not work.order.audits:
        return False
    if made.variant.is_vllm_bundle:
        return True
    if not work.order.over_http or there(made.engine).key.hard["builder"] == BuilderKind.INDUCTOR:
        return True
    loaded = there(made.refitted or made.compiled).path / "engine"
    return says_all(loaded) or result == "fail"


def _in_channel(bench: Bench, work: Work, made: Progress, outcome: Outcome) -> Outcome:
    """Puts an engine into the channel asked for; a verdict that is not recorded opens none."""
    name = work.order.channel
    if name is None or _is_recorded(work, made, str(outcome.result)):
        return into_channel(bench, name, outcome)
    return replace(outcome, channel=f"{name}: refused: this run made no recorded verdict")


def decide(bench: Bench, work: Work, made: Progress) -> tuple[Verdict, dict[str, Any]]:
    """Returns the verdict on a scored engine, and the document that is signed and stored."""
    variant, evidence = made.variant, _evidence(work, made)
    policy = AcceptancePolicy(**asdict(variant.acceptance))
    locating = work.order.locate and not variant.is_vllm_bundle  # it has no checkpoint to look into
    if locating and evidence.twin is not None and not evidence.engine.of_choices:
        evidence = replace(evidence, dictionary=_dictionary(bench, work, made))
    verdict = judge(evidence, policy)
    if _unexplained(verdict):
        verdict = judge(replace(evidence, culprits=_culprits(evidence)), policy)
    document = {
        **verdict.document(),
        "variant": str(variant.identifier),
        "acceptance": str(acceptance_digest(bench, variant)),
        "limits_from": dict(variant.limits_from),
        "validator": str(bench.validator),
        "source_note": source_of(work).note,
        "repairs": [asdict(repair) for repair in made.repairs],
    }
    if there(made.engine).simulated:
        document["simulated"] = True
    if variant.is_vllm_bundle:
        document["serving_bundle"] = True
    caches = None if made.scores is None else made.scores.record.get("caches")
    if caches is not None:
        document["caches"] = caches  # whether a bundle's own were loaded when it was asked
    if made.refitted is not None:
        document["refit"] = refit_document(made.refitted)
    return verdict, document


def _unexplained(verdict: Verdict) -> bool:
    """Says whether an engine is not its recipe and no audit knows why."""
    clean = all(audit.result == "pass" for audit in verdict.audits)
    return clean and verdict.fidelity.result == "fail"


def _culprits(evidence: Evidence) -> tuple[Culprit, ...]:
    if evidence.twin is None or evidence.dictionary is None:
        return ()
    return explain(evidence.dictionary, evidence.twin, evidence.engine, evidence.scored)


def _dictionary(bench: Bench, work: Work, made: Progress) -> Dictionary:
    """Makes the fault dictionary of a checkpoint, over the first prompts that engines score."""
    source, name, probe = source_of(work), made.variant.identifier, there(work.probe)
    prompts = list(order_of(rounds_of(probe.suite))[:DICTIONARY_PROMPTS])
    twin_scores = there(made.twin).path / SCORES
    codes = codes_of(made.checkpoint.path)
    inputs = {
        "model": str(source.digest),
        "checkpoint": str(made.checkpoint.digest),
        "tokens": str(probe.tokens.key),
        "twin": str(digest_file(twin_scores)),
        "prompts": prompts,
        "positions": DICTIONARY_POSITIONS,
        "codes": codes,
        "numerics": bench.shop.code("configs", "validation"),
        "made_by": bench.shop.identity("inductor", "sensitivities"),
    }

    def make(directory: Path) -> dict[str, Any]:
        twin = directory / "twin"
        progress.info("%s: fault dictionary, one pass per tensor ...", name)
        write_recipe_twin(source.path, made.checkpoint.path, twin)
        job = {
            "twin": str(twin),
            "tokens": str(probe.tokens.path / "tokens.json"),
            "targets": {"twin": str(twin_scores)},
            "prompts": prompts,
            "positions": DICTIONARY_POSITIONS,
            "codes": codes,
            "output": str(directory / DICTIONARY),
        }
        outcome = bench.shop.run("inductor", "sensitivities", job, name=name, minutes=240)
        shutil.rmtree(twin)
        return {"seconds": outcome.seconds}

    product = stages.made_once(bench.shop, "sensitivities", inputs, make)
    return load_dictionary(product.path / DICTIONARY)


def _score_twin(bench: Bench, work: Work, made: Progress, probe: Probe) -> Made:
    """Writes the recipe twin, scores it and removes it: only its scores are kept.

    So with the checkpoint's own twin, where that is another.
    """
    source, name = source_of(work), made.variant.identifier
    chaotic = made.variant.recipe.rounds_activations
    inputs = {
        "twin": "recipe",
        "nudge": _NUDGE if chaotic else None,
        "model": str(source.digest),
        "checkpoint": str(made.checkpoint.digest),
        **probe.inputs(),
        "numerics": bench.shop.code("configs", "validation"),
        "made_by": bench.shop.identity("inductor", "score_twin"),
    }

    def make(directory: Path) -> dict[str, Any]:
        twin = directory / "twin"
        progress.info("%s: recipe twin ...", name)
        write_recipe_twin(source.path, made.checkpoint.path, twin)
        plain = {**probe.job(directory), "twin": str(twin)}
        seconds = bench.shop.run("inductor", "score_twin", plain, name=name, minutes=60).seconds
        if chaotic:
            targets = {"twin": str(directory / SCORES)}
            output = str(directory / NUDGED)
            job = {**plain, "targets": targets, "output": output, "nudge": _NUDGE}
            seconds += bench.shop.run("inductor", "score_twin", job, name=name, minutes=60).seconds
        said, more = score_checkpoint_twin(
            bench.shop, source, made.checkpoint, twin, plain, name=name
        )
        shutil.rmtree(twin)
        return {"seconds": seconds + more, **said}

    forget_a_crash(bench.shop, stages.work_key(TWIN_SCORES, inputs))
    return stages.made_once(bench.shop, TWIN_SCORES, inputs, make)


def _verify(bench: Bench, engine: Engine, directory: Path) -> None:
    """Raises IntegrityError unless a trusted builder signed exactly these bytes."""
    bench.registry.verify_engine(engine)
    manifest = Manifest.of_directory(
        directory, "engine", key=engine.key.digest(), simulated=engine.simulated
    )
    if manifest.digest != engine.digest:
        published = bench.registry.store.get_document(f"{engine.path}/manifest.json")
        verify_directory(Manifest.from_bytes(published, expected=engine.digest), directory)


def _evidence(work: Work, made: Progress) -> Evidence:
    """Reads every arm, and which prompts the engine scored by which rule."""
    tokens, scores = there(work.probe).suite, there(made.scores)
    order: list[int] | None = scores.record.get("prompts")
    path = scores.path / SCORES
    arms = _arms(work, made, tokens)
    if order is None:
        return arms(load_scores(path, tokens))
    rounds, stopped = rounds_of(tokens), scores.record["stopped"]
    ended = rule_at_the_end(rounds) if stopped is None else rule_on_the_way(rounds, len(order))
    return replace(
        arms(load_scores(path, tokens.only(order))),
        scored=tuple(order),
        rule=ended,
        stopped=None if stopped is None else Stop.from_dict(stopped),
    )


def _arms(work: Work, made: Progress, tokens: TokenizedSuite) -> Callable[[Scores], Evidence]:
    """Reads the arms that an engine is compared with; what is returned adds the engine."""
    probe = there(work.probe)

    def arm(scored: Made) -> Scores:
        return load_scores(scored.path / SCORES, tokens)

    scored = there(made.twin)
    nudged, twin = scored.path / NUDGED, arm(scored)
    validation = made.validation
    asked = None if made.probes is None else load_probes(made.probes.path / stages.PROBES)
    return partial(
        Evidence,
        tokens,
        source=arm(probe.targets["source"]),
        reference=probe.reference,
        twin=twin,
        checkpoint_twin=read_checkpoint_twin(scored, twin, tokens),
        no_checkpoint_twin=why_no_checkpoint_twin(scored),
        nudged=load_scores(nudged, tokens) if nudged.is_file() else None,
        second_source=arm(there(work.second)),
        validation_twin=None if validation is None else arm(validation),
        audits=made.audits,
        greedy_prefix=probe.scoring.greedy_prefix,
        pieces=read_pieces(source_of(work).path),
        probes=asked,
        texts=_texts(work, made),
        layers=None if made.layers is None else load_layers(made.layers.path / LAYERS),
        linears=None if made.layers is None else load_linears(made.layers.path / LINEARS),
        endings=None if made.layers is None else load_endings(made.layers.path / ENDINGS),
    )


def _record(bench: Bench, engine: Engine, verdict: Verdict, document: dict[str, Any]) -> None:
    checks: dict[str, list[str]] = {"pass": [], "fail": [], "other": []}
    for check in document["checks"]:
        outcome = check["result"] if check["result"] in ("pass", "fail") else "other"
        checks[outcome].append(check["check"])
    claim = VerdictClaim(
        result=Result(verdict.result),
        environment=environment_of(bench, engine.key),
        document=digest_bytes(canonical_json(document)),
        issued_at=datetime.now(UTC),
        simulated=engine.simulated,
        passed=tuple(checks["pass"]),
        failed=tuple(checks["fail"]),
        warned=tuple(checks["other"]),
        fidelity=verdict.fidelity.result,
        quality=verdict.quality.result,
        summary=verdict.summary,
    )
    signers = bench.signers(Purpose.VERDICT, simulated=engine.simulated)
    policy = Digest.parse(document["acceptance"])
    envelope = sign(test_result(engine.digest, claim), *signers)
    vsa = sign(summary(engine, envelope, claim, policy), *signers)
    bench.registry.record_verdict(engine.digest, document, envelope, vsa)
