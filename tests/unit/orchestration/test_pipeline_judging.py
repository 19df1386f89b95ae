"""Judging: verified before it is loaded, recorded only when it was audited."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest

from enginekeeper import reports
from enginekeeper.orchestration import judging, workshop
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.export_arm import EXPORT, why_no_checkpoint_twin
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending
from enginekeeper.orchestration.pipeline import Progress, Work, begin, there
from enginekeeper.orchestration.planning import acceptance_digest
from enginekeeper.orchestration.stages import PROBES, SCORES, Checkpoint, Made, Probe, Scoring
from enginekeeper.orchestration.twin_probes import ENDINGS, LAYERS, LINEARS
from enginekeeper.orchestration.validator import SCORING
from enginekeeper.toolchains.errors import (
    FailedStepError,
    StepCrashedError,
    StepPlace,
    StepRefusedError,
)
from enginekeeper.toolchains.runner import StepOutcome, StepRun
from enginekeeper.validation.endings import BothEndings, load_endings
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.layers import load_layers, load_linears
from enginekeeper.validation.probes import Counted, load_probes
from enginekeeper.validation.tokenizers import nothing_shipped
from registry.digests import digest_bytes
from registry.errors import IntegrityError
from registry.manifests import Manifest
from tests.factories.arms import small_suite, synthetic_arm
from tests.factories.benches import Site, variants_of
from tests.factories.checkpoints import edit_tensor, exported
from tests.factories.dictionaries import NAMES, dictionary_of, engine_of
from tests.factories.gpu_engines import publish_for_gpu
from tests.fakes.steps import FakeSteps

PLACE = StepPlace("score_twin", "inductor", Path("run"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were started; each ends well."""
    fake = FakeSteps()
    monkeypatch.setattr(workshop, "run_step", fake)
    return fake.started


@pytest.fixture
def work(site: Site, tmp_path: Path) -> Work:
    (tmp_path / SCORES).write_bytes(b"scores")
    prompts = [{"id": name, "stratum": "prose", "ids": [0, 1, 2]} for name in "ab"]
    (tmp_path / "tokens.json").write_text(json.dumps({"prompts": prompts, "vocab_size": 4}))
    given = Made(tmp_path, digest_bytes(b"tokens"), reused=True, seconds=0.0)
    scoring = Scoring(tmp_path / "suite", digest_bytes(b"suite"), 64, 20, "vllm-cpu", "float32")
    work = begin(site.plan(*variants_of(tmp_path, "[w8a16]")), BuildOrder("spec.yaml"))
    probe = Probe(scoring, given, {"source": given})
    return replace(work, source=site.source, probe=probe, second=given)


@pytest.fixture
def made(site: Site, tmp_path: Path, work: Work) -> Progress:
    """A published engine, still lying where it was compiled."""
    variant = work.planned[0].variant
    engine = site.publish(variant)
    compiled = site.built(variant).directory
    record = {"digest": str(Manifest.of_directory(compiled, "engine").digest)}
    product = Made(
        compiled.parent, digest_bytes(b"engine"), reused=False, seconds=1.0, record=record
    )
    checkpoint = Checkpoint(exported("w8a16", tmp_path), digest_bytes(b"checkpoint"))
    return Progress(work.planned[0], product, checkpoint, (), compiled=product, engine=engine)


def decide(result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = SimpleNamespace(result=result)
    verdict = SimpleNamespace(result=result, summary=f"{result}!", fidelity=line, quality=line)

    def decided(bench: Bench, _work: Work, made: Progress) -> tuple[Any, dict[str, Any]]:
        document = {
            "schema": 1, "result": result, "summary": f"{result}!",
            "fidelity": {"result": result}, "quality": {"result": result},
            "acceptance": str(acceptance_digest(bench, made.variant)),
            "checks": [{"check": "kl", "result": result}, {"check": "ppl", "result": "shown"}],
        }  # fmt: skip
        return verdict, document

    monkeypatch.setattr(judging, "decide", decided)


def test_what_was_scored_at_another_reference_is_scored_again(
    site: Site, work: Work, made: Progress, steps: list[str], tmp_path: Path
) -> None:
    judging.score_engine(site.bench, work, made)
    (tmp_path / SCORES).write_bytes(b"of another machine, under the same key")
    judging.score_engine(site.bench, work, made)
    assert steps == ["score_twin", "score_engine"] * 2


def test_twin_and_engine_are_scored_when_the_bytes_are_the_signed_ones(
    site: Site, work: Work, made: Progress, steps: list[str]
) -> None:
    scored = judging.score_engine(site.bench, work, made)
    assert steps == ["score_twin", "score_engine"]
    assert {SCORING[step] for step in steps} == {"inductor"}
    assert not (there(scored.twin).path / "twin").exists()
    assert judging.score_engine(site.bench, work, made).seconds == {"quantize": 1.0, "compile": 1.0}
    assert steps == ["score_twin", "score_engine"]


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (StepCrashedError("crashed", PLACE), 2),
        (StepRefusedError("no such activation", PLACE, kind="config"), 1),
    ],
)
def test_a_checkpoint_twin_that_crashed_is_asked_again_and_one_that_refused_is_not(
    site: Site,
    work: Work,
    made: Progress,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: FailedStepError,
    asked: int,
) -> None:
    name = "transformer.layers.1.mlp.proj.weights_scaling_factor"
    edit_tensor(made.checkpoint.path, name, lambda scales: scales * np.float32(2))
    ended: list[str] = []

    def run_step(run: StepRun, **options: object) -> StepOutcome:
        if str(run.job["output"]).endswith(EXPORT):
            ended.append(run.step)
            raise error
        return FakeSteps()(run, **options)

    monkeypatch.setattr(workshop, "run_step", run_step)

    judging.score_engine(site.bench, work, made)
    again = judging.score_engine(site.bench, work, made)

    assert ended == ["score_twin"] * asked
    assert why_no_checkpoint_twin(there(again.twin)) == f"not scored: {error.what}"


def test_the_record_of_a_run_says_which_prompts_were_scored_and_in_which_order(
    site: Site, work: Work, made: Progress, steps: list[str]
) -> None:
    scored = judging.score_engine(site.bench, work, made)
    whole = replace(work, order=replace(work.order, whole_suite=True))

    assert there(scored.scores).record["prompts"] == [0, 1]
    assert there(scored.scores).record["stopped"] is None
    assert "prompts" not in there(judging.score_engine(site.bench, whole, made).scores).record
    assert steps == ["score_twin", "score_engine", "score_engine"]


def test_a_real_engine_is_asked_in_its_own_toolchain_after_its_signature_was_verified(
    site: Site, work: Work, made: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[StepRun] = []

    def run_step(run: StepRun, **options: object) -> StepOutcome:
        started.append(run)
        return FakeSteps()(run, **options)

    monkeypatch.setattr(workshop, "run_step", run_step)
    lock_of = site.bench.shop.lock_of
    vars(site.bench)["shop"] = replace(
        site.bench.shop, lock_of=lambda name: lock_of("inductor" if "tensorrt" in name else name)
    )
    engine = publish_for_gpu(site, made.variant, tensorrt_llm="1.2.1")
    place = there(made.compiled).path / "engine"
    (place / "graph.pt2").write_bytes(b"plan")
    config = {"build_config": {"max_batch_size": 2}, "pretrained_config": {}}
    real = replace(made, engine=engine)

    (place / "config.json").write_text(json.dumps(config))

    with pytest.raises(IntegrityError):  # not the bytes that were signed
        judging.score_engine(site.bench, work, real)

    assert [run.step for run in started] == ["score_twin"]
    monkeypatch.setattr(judging, "_verify", lambda *_: None)
    judging.score_engine(site.bench, work, real)
    assert (started[-1].toolchain, started[-1].step) == ("tensorrt-llm-1.2.1", "score_trtllm")
    told = started[-1].job
    assert told["api"]["arguments"]["model"] == str(place)
    assert (told["way"], told["max_batch"]) == ("generation", 2)
    assert told["gpu"] == {"product": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}
    assert told["ranks"] == 1
    assert told["rounds"]


def test_an_engine_is_asked_in_other_ways_when_that_was_ordered(
    site: Site, work: Work, made: Progress, steps: list[str]
) -> None:
    wanted = replace(work, order=replace(work.order, probes=True))

    scored = judging.score_engine(site.bench, wanted, made)
    again = judging.score_engine(site.bench, wanted, made)

    assert steps == [
        "score_twin", "score_engine", "probe_engine", "probe_layers", "probe_linears",
        "probe_endings",
    ]  # fmt: skip
    assert isinstance(load_endings(there(scored.layers).path / ENDINGS), BothEndings)
    assert again.probes is not None
    assert load_probes(there(scored.probes).path / PROBES).ladders == {"batch": ("batch-2",)}
    assert judging.score_engine(site.bench, work, made).probes is None
    assert {SCORING[step] for step in steps} == {"inductor"}
    layers = load_layers(there(scored.layers).path / LAYERS)
    assert (layers.parts, layers.tokens) == (("layers.0",), 6)
    assert load_linears(there(scored.layers).path / LINEARS).rows == ((0, 0.0),)
    assert not (there(scored.layers).path / "twin").exists()


def test_the_tokenizer_that_will_serve_an_engine_is_held_against_its_models(
    site: Site, work: Work, made: Progress, steps: list[str], tmp_path: Path
) -> None:
    serving = tmp_path / "serving"
    serving.mkdir()
    (serving / "tokenizer.json").write_text("{}")
    order = replace(work.order, probes=True, tokenizer=str(serving))

    scored = judging.score_engine(site.bench, replace(work, order=order), made)
    bare = judging.score_engine(
        site.bench, replace(work, order=replace(order, tokenizer=None)), made
    )

    assert steps.count("probe_tokenizer") == 1
    assert SCORING["probe_tokenizer"] == "inductor"
    texts = judging._texts(work, scored)
    assert texts is not None
    assert texts["probe.tokenizer"] == Counted(2, ())
    assert judging._texts(replace(work, order=order), bare) == nothing_shipped()
    assert judging._texts(work, bare) is None


def test_the_dictionary_of_a_checkpoint_is_made_once_of_the_prompts_scored_first(
    site: Site, work: Work, made: Progress, steps: list[str]
) -> None:
    scored = judging.score_engine(site.bench, work, made)

    dictionary = judging._dictionary(site.bench, work, scored)
    judging._dictionary(site.bench, work, scored)

    assert (dictionary.names, dictionary.prompts) == (("lm_head",), (0, 1))
    assert steps.count("sensitivities") == 1
    assert SCORING["sensitivities"] == "inductor"
    products = site.bench.shop.work.root.glob("sensitivities/*/twin")
    assert not list(products)


@pytest.mark.parametrize(
    ("fidelity", "audits", "unexplained"),
    [
        ("fail", ("pass", "pass"), True),
        ("fail", (), True),
        ("fail", ("pass", "fail"), False),
        ("inconclusive", ("pass",), False),
        ("pass", ("pass",), False),
    ],
)
def test_a_tensor_is_looked_for_where_nothing_else_says_what_is_wrong(
    fidelity: str,
    audits: tuple[str, ...],
    unexplained: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    reports = [SimpleNamespace(result=result) for result in audits]
    verdict: Any = SimpleNamespace(fidelity=SimpleNamespace(result=fidelity), audits=reports)

    assert judging._unexplained(verdict) is unexplained


def test_a_dictionary_is_made_for_the_verdict_where_one_was_asked_for(
    site: Site, work: Work, made: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = small_suite()
    source = synthetic_arm(tokens, meta={"vllm": "0.32.0"})
    twin = synthetic_arm(tokens, targets={"source": source})
    dictionary = dictionary_of(twin, tuple(range(len(tokens.prompts))))
    engine = engine_of(twin, dictionary, {4: 0.02}, noise=0.002)
    evidence = Evidence(tokens, engine, source=source, twin=twin)
    monkeypatch.setattr(judging, "_evidence", lambda *_: evidence)
    monkeypatch.setattr(judging, "_dictionary", lambda *_: dictionary)

    ordered = replace(work, order=replace(work.order, locate=True))
    _, located = judging.decide(site.bench, ordered, made)
    _, plain = judging.decide(site.bench, work, made)

    said = [
        {check["check"]: check["result"] for check in document["checks"]}["fidelity.gain"]
        for document in (located, plain)
    ]
    assert said == ["fail", "not run"]
    assert [one["names"] for one in located["culprits"]] == [[NAMES[4]]]
    assert plain["culprits"] == []


def test_what_is_signed_of_a_refitted_double_is_of_the_schema(
    site: Site, work: Work, made: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = small_suite()
    evidence = Evidence(tokens, synthetic_arm(tokens, meta={"vllm": "0.32.0"}))
    monkeypatch.setattr(judging, "_evidence", lambda *_: evidence)
    refit = replace(there(made.compiled), record={"digest": "sha256:0", "inputs": {"plan": "a"}})
    double = replace(there(made.engine), simulated=True)

    _, document = judging.decide(site.bench, work, replace(made, engine=double, refitted=refit))

    schema = json.loads((Path(reports.__file__).parent / "verdict.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(document)), schema)
    assert document["refit"] == {"plan": "a", "engine": "sha256:0"}
    assert document["simulated"] is True


@pytest.mark.parametrize("name", ["graph.pt2", "extra.so"])
def test_altered_bytes_are_never_loaded(
    site: Site, work: Work, made: Progress, steps: list[str], name: str
) -> None:
    (there(made.compiled).path / "engine" / name).write_bytes(b"malice")
    with pytest.raises(IntegrityError):
        judging.score_engine(site.bench, work, made)
    assert "score_engine" not in steps


def test_an_engine_that_no_trusted_builder_signed_is_never_loaded(
    site: Site, work: Work, made: Progress, steps: list[str]
) -> None:
    forged = replace(there(made.engine), digest=digest_bytes(b"another engine"))
    with pytest.raises(IntegrityError, match="another artifact"):
        judging.score_engine(site.bench, work, replace(made, engine=forged))
    assert "score_engine" not in steps


@pytest.mark.parametrize("result", ["pass", "fail", "inconclusive"])
def test_a_verdict_is_signed_and_recorded(
    site: Site, work: Work, made: Progress, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    decide(result, monkeypatch)
    outcome = judging.judge_engine(site.bench, work, made)
    engine = there(made.engine)
    (verdict,) = site.bench.registry.verdicts(engine.digest)
    signature = site.bench.registry.summary_signature(engine, verdict)
    assert signature is not None
    assert signature.fault is None
    assert (outcome.ending, outcome.result, str(verdict.result)) == (Ending.JUDGED, result, result)
    assert verdict.environment == site.bench.environment
    assert site.bench.registry.gate(engine.digest, site.bench.environment).is_open is (
        result == "pass"
    )
    assert outcome.channel is None
    (planned,) = site.plan(made.variant)
    assert str(planned.action) == "reuse"


def test_a_judgement_without_audits_is_shown_and_not_recorded(
    site: Site, work: Work, made: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide("fail", monkeypatch)
    unaudited = replace(work, order=replace(work.order, audits=False))
    outcome = judging.judge_engine(site.bench, unaudited, made)
    assert outcome.result == "fail"
    assert unaudited.outcomes() == [outcome]
    assert site.bench.registry.verdicts(there(made.engine).digest) == []


def test_a_channel_says_why_it_refuses(
    site: Site, work: Work, made: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = replace(work, order=replace(work.order, channel="prod"))
    decide("fail", monkeypatch)
    refused = judging.judge_engine(site.bench, work, made).channel
    assert refused is not None
    assert refused.startswith("prod: refused: the gate is closed: ")
    assert site.bench.registry.channels() == []
    decide("pass", monkeypatch)
    assert judging.judge_engine(site.bench, work, made).channel == "prod: set"
    (position,) = site.bench.registry.channels()
    assert (position.channel, position.engine) == ("prod", there(made.engine).digest)
