"""`plan` and `build` where nothing needs to be run: what they print and how they exit."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli.build import exit_code_of_outcome
from enginekeeper.errors import InputError, MissingError, UnavailableError
from enginekeeper.orchestration import planning, start
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Failure, Outcome
from enginekeeper.toolchains.errors import StepCrashedError, StepPlace
from registry.errors import (
    DiagnosedError,
    GateClosedError,
    GateRefusedError,
    IntegrityError,
    StoreUnavailableError,
)
from registry.service import Registry
from registry.types import Result
from tests.factories.benches import Site, variants_of, write_spec
from tests.factories.checkpoints import SOURCE, source_copy
from tests.factories.registry import WEIGHTS

Ek = Callable[..., Any]
TP2 = Path(__file__).parents[3] / "buildspecs" / "smollm2-tp2.yaml"


def have_source(monkeypatch: pytest.MonkeyPatch, path: Path = SOURCE) -> None:
    here = SimpleNamespace(path=path, digest=WEIGHTS)
    monkeypatch.setattr(planning, "find_source", lambda *_args, **_kwargs: here)


@pytest.fixture
def nine_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.factories.checkpoints import edit_config  # noqa: PLC0415

    source = source_copy(tmp_path)
    edit_config(source, num_attention_heads=9, num_key_value_heads=3, hidden_size=576, head_dim=64)
    have_source(monkeypatch, source)


@pytest.mark.usefixtures("site", "nine_heads")
@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_refusal_exits_8_before_any_work(ek: Ek, command: str) -> None:
    prefect_before = "prefect" in sys.modules
    said = ek(command, TP2, "--json")
    assert said.code == ExitCode.REFUSED
    (planned,) = said.json
    assert planned["variant"] == "smollm2-135m.none.tp2.l40s"
    assert "9" in planned.get("reason", planned.get("summary"))
    assert planned.get("action", planned.get("ending")) in ("refuse", "refused")
    assert ("prefect" in sys.modules) is prefect_before


@pytest.mark.usefixtures("site", "nine_heads")
def test_a_refused_variant_says_its_rule_to_a_person(ek: Ek) -> None:
    said = ek("plan", TP2)
    assert "query-heads-by-tensor-parallel" in said.out
    assert "smollm2-135m.none.tp2.l40s: refuse:" in said.err


@pytest.mark.usefixtures("site")
def test_what_needs_no_model_is_refused_before_it_is_here(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "find_source", lambda *_args, **_kwargs: None)
    more = "targets: [h100-sxm]\ntoolchain: tensorrt-llm-1.2.1\n"
    said = ek("plan", write_spec(tmp_path, "[nvfp4, none]", more))
    assert said.code == ExitCode.REFUSED
    assert "nvfp4-needs-10.0" in said.out
    assert "no-builder-here" in said.out
    (waiting,) = [line for line in said.err.splitlines() if line.startswith("checked when")]
    assert "group-divides-columns" in waiting


def test_what_is_settled_is_reused_with_its_verdict(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    (variant,) = variants_of(tmp_path)
    engine = site.publish(variant)
    site.judge(engine, variant, Result.FAIL)
    planned = ek("plan", write_spec(tmp_path), "-o", "json")
    assert (planned.code, planned.json[0]["action"]) == (0, "reuse")
    assert planned.json[0]["verdict"] == "fail"
    built = ek("build", write_spec(tmp_path), "--json")
    assert built.code == ExitCode.FAIL
    assert built.json[0]["engine"] == str(engine.digest)


def test_reused_engines_are_put_into_the_channel_too(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    good, bad = variants_of(tmp_path, "[none, w8a16]")
    site.judge(site.publish(good, b"good"), good)
    site.judge(site.publish(bad, b"bad"), bad, Result.FAIL)
    said = ek("build", write_spec(tmp_path, "[none, w8a16]"), "--channel", "prod", "--json")
    assert [one["channel"].partition(" ")[0] for one in said.json] == ["prod:", "prod:"]
    assert said.json[0]["channel"] == "prod: set"
    assert said.json[1]["channel"].startswith("prod: refused: the gate is closed")
    (position,) = ek("channel", "list", "--json").json
    assert (position["channel"], position["engine"]) == ("prod", said.json[0]["engine"])


def test_what_passed_by_a_laxer_policy_alone_gets_into_no_channel(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    lax = "acceptance: {max_quality_kl: 5}\n"
    (strict,), (laxer,) = variants_of(tmp_path), variants_of(tmp_path, more=lax)
    engine = site.publish(strict)
    site.judge(engine, strict, Result.FAIL)
    site.judge(engine, laxer)  # the same engine: a policy is no part of its key
    said = ek("build", write_spec(tmp_path), "--channel", "prod", "--json")
    assert said.json[0]["channel"].startswith("prod: refused: the gate is closed")
    assert ek("channel", "list", "--json").json == []


def test_a_channel_that_refuses_what_passed_decides_the_exit_code(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    (variant,) = variants_of(tmp_path)
    site.judge(site.publish(variant), variant)
    monkeypatch.setattr(Registry, "set_channel", raising(IntegrityError("not attested")))
    said = ek("build", write_spec(tmp_path), "--channel", "prod", "--json")
    assert said.code == ExitCode.INTEGRITY
    assert said.json[0]["channel"] == "prod: refused: not attested"
    assert said.json[0]["channel_error"]["error"] == "IntegrityError"
    assert said.json[0]["exit_code"] == ExitCode.INTEGRITY


@pytest.mark.usefixtures("site")
def test_a_name_that_no_channel_can_have_is_refused_before_any_work(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "run_build", raising(AssertionError("work was begun")))
    said = ek("build", write_spec(tmp_path), "--channel", "bad name/../!")
    assert said.code == ExitCode.INVALID_INPUT
    assert "bad name/../!" in said.err


@pytest.mark.usefixtures("site")
def test_a_build_for_elsewhere_alone_exits_10_and_starts_nothing(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "load_flow", raising(AssertionError("Prefect was started")))
    monkeypatch.setattr(planning, "find_source", lambda *_args, **_kwargs: None)
    spec = write_spec(tmp_path, more="targets: [h100-sxm]\ntoolchain: tensorrt-llm-1.2.1\n")
    assert ek("plan", spec, "--json").json[0]["action"] == "elsewhere"
    said = ek("build", spec, "--json")
    assert said.code == ExitCode.UNAVAILABLE
    assert said.json[0]["error"]["next"].startswith("leave it out")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_bad_spec_exits_3_and_names_file_and_line(ek: Ek, tmp_path: Path, command: str) -> None:
    spec = write_spec(tmp_path, more="acceptance:\n  max_kl: 1\n")
    said = ek(command, spec)
    assert (said.code, said.out) == (ExitCode.INVALID_INPUT, "")
    assert f"{spec}:6:" in said.err
    assert "max_kl" in said.err


@pytest.mark.usefixtures("site")
def test_a_spec_that_is_not_there_exits_with_an_answer(ek: Ek, tmp_path: Path) -> None:
    said = ek("plan", tmp_path / "absent.yaml")
    assert said.code in (ExitCode.INVALID_INPUT, ExitCode.NOT_FOUND)
    assert "absent.yaml" in said.err


@pytest.mark.usefixtures("site")
def test_a_selector_that_picks_nothing_exits_4(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    said = ek("plan", write_spec(tmp_path), "--only", "*.fp8.*")
    assert said.code == ExitCode.NOT_FOUND
    assert "tiny.none.tp1.cpu" in said.err


@pytest.mark.usefixtures("site")
def test_what_is_skipped_is_not_planned(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    said = ek("plan", write_spec(tmp_path, "[none, w8a16]"), "--skip", "*.w8*", "--json")
    assert [one["variant"] for one in json.loads(said.out)] == ["tiny.none.tp1.cpu"]


def raising(error: Exception) -> Callable[..., Any]:
    def function(*_args: object, **_options: object) -> None:
        raise error

    return function


def ended(
    ending: Ending, result: str | None = None, error: DiagnosedError | None = None
) -> Outcome:
    failure = None if error is None else Failure.of(error)
    return Outcome("v", ending, result, "", failure=failure)


PLACE = StepPlace("quantize", "modelopt", Path("step.log"))


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (ended(Ending.JUDGED, "pass"), ExitCode.OK),
        (ended(Ending.EXPORTED), ExitCode.OK),
        (ended(Ending.REUSED, "inconclusive"), ExitCode.INCONCLUSIVE),
        (ended(Ending.REUSED, "fail"), ExitCode.FAIL),
        (ended(Ending.EXPORTED, "fail"), ExitCode.FAIL),
        (ended(Ending.REFUSED), ExitCode.REFUSED),
        (ended(Ending.FAILED, error=StepCrashedError("x", PLACE)), ExitCode.STEP_FAILED),
        (ended(Ending.FAILED, error=UnavailableError("x")), ExitCode.UNAVAILABLE),
        (ended(Ending.FAILED, error=StoreUnavailableError("x")), ExitCode.UNAVAILABLE),
        (ended(Ending.FAILED, error=IntegrityError("x")), ExitCode.INTEGRITY),
        (ended(Ending.FAILED, error=InputError("x")), ExitCode.INVALID_INPUT),
        (ended(Ending.FAILED, error=MissingError("x")), ExitCode.NOT_FOUND),
    ],
)
def test_an_ending_has_the_exit_code_of_its_error(outcome: Outcome, code: ExitCode) -> None:
    assert exit_code_of_outcome(outcome) is code


@pytest.mark.parametrize(
    ("result", "error", "code"),
    [
        ("pass", GateClosedError("x"), ExitCode.FAIL),
        ("pass", GateRefusedError("x"), ExitCode.REFUSED),
        ("pass", IntegrityError("x"), ExitCode.INTEGRITY),
        ("fail", GateClosedError("x"), ExitCode.FAIL),
        ("fail", GateRefusedError("x"), ExitCode.FAIL),
        ("fail", IntegrityError("x"), ExitCode.INTEGRITY),
        ("inconclusive", GateClosedError("x"), ExitCode.INCONCLUSIVE),
    ],
)
def test_the_channels_refusal_counts_where_it_says_more(
    result: str, error: DiagnosedError, code: ExitCode
) -> None:
    outcome = replace(ended(Ending.JUDGED, result), refusal=Failure.of(error))
    assert exit_code_of_outcome(outcome) is code


def test_a_failure_exits_with_its_own_code_and_says_it_per_variant(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [
        ended(Ending.JUDGED, "fail"),
        ended(Ending.FAILED, error=UnavailableError("no worker", remedy="start one")),
    ]
    monkeypatch.setattr(start, "run_build", lambda *_, **__: outcomes)
    said = ek("build", tmp_path / "spec.yaml", "--json")
    assert said.code == ExitCode.UNAVAILABLE
    assert [one["exit_code"] for one in said.json] == [ExitCode.FAIL, ExitCode.UNAVAILABLE]
    assert said.json[0]["error"] is None
    assert said.json[1]["error"]["error"] == "UnavailableError"
    assert said.json[1]["error"]["next"] == "start one"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), {"whole_suite": False, "probes": False, "locate": False}),
        (("--whole-suite", "--probes", "--locate"),
         {"whole_suite": True, "probes": True, "locate": True}),
        (("--probes",), {"whole_suite": False, "probes": True, "locate": False}),
    ],
)  # fmt: skip
def test_how_engines_are_judged_is_part_of_the_order(
    ek: Ek,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    wanted: dict[str, bool],
) -> None:
    orders: list[BuildOrder] = []

    def run_build(order: BuildOrder, **_more: object) -> list[Outcome]:
        orders.append(order)
        return []

    monkeypatch.setattr(start, "run_build", run_build)
    ek("build", tmp_path / "spec.yaml", *options)
    (order,) = orders
    assert {name: getattr(order, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("options", "code"), [((), ExitCode.USAGE), (("--probes",), ExitCode.INVALID_INPUT)]
)
def test_a_tokenizer_that_nothing_would_look_at_or_that_is_none_is_refused_at_once(
    ek: Ek, tmp_path: Path, options: tuple[str, ...], code: ExitCode
) -> None:
    said = ek("build", tmp_path / "spec.yaml", "--tokenizer", tmp_path, *options)

    assert said.code == code
    assert "tokenizer" in said.err


@pytest.mark.parametrize(
    ("ending", "error"), [(Ending.FAILED, None), (Ending.JUDGED, InputError("x"))]
)
def test_a_failure_has_its_error_and_nothing_else_has_one(
    ending: Ending, error: DiagnosedError | None
) -> None:
    with pytest.raises(AssertionError, match="ended as"):
        ended(ending, error=error)


def test_the_failure_of_a_step_travels_between_processes() -> None:
    outcome = ended(Ending.FAILED, error=StepCrashedError("x", PLACE))
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301 - our own bytes


@pytest.mark.usefixtures("site")
def test_a_warning_and_what_to_do_are_told_to_a_person(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.factories.checkpoints import edit_config  # noqa: PLC0415

    source = source_copy(tmp_path)
    edit_config(source, max_position_embeddings=16)
    have_source(monkeypatch, source)
    said = ek("plan", write_spec(tmp_path))
    assert said.code == ExitCode.OK
    assert ": warning: Requests longer than the model's context" in said.err
    assert "expected at most 16" in said.err


@pytest.mark.usefixtures("site", "nine_heads")
def test_a_refusal_says_what_to_do_where_its_rule_knows(ek: Ek) -> None:
    (planned,) = ek("plan", TP2, "--json").json
    remedies = [hit["next"] for hit in planned["rules"] if hit["next"]]
    said = ek("plan", TP2).err
    assert remedies
    assert all(f"next: {remedy}" in said for remedy in remedies)


SIMULATED = "targets: [h100-sxm]\ntoolchain: simulated-tensorrt-llm-1.2.1\n"


@pytest.mark.usefixtures("site")
def test_a_plan_with_doubles_says_that_it_is_simulated(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    said = ek("plan", write_spec(tmp_path, "[w8a16]", SIMULATED))
    assert said.code == ExitCode.OK
    assert "SIMULATED" in said.out
    assert "it proves no GPU" in said.err
    (planned,) = ek("plan", write_spec(tmp_path, "[w8a16]", SIMULATED), "--json").json
    assert (planned["simulated"], planned["action"]) == (True, "build")


@pytest.mark.usefixtures("site")
def test_a_double_refuses_by_the_rules_of_its_release(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    more = SIMULATED.replace("h100-sxm", "b200")
    (planned,) = ek("plan", write_spec(tmp_path, "[w8a16]", more), "--json").json
    assert (planned["action"], planned["rule"]) == ("refuse", "int-weights-not-on-10.x")


def test_a_simulated_engine_has_channels_of_its_own_and_says_so_on_every_screen(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    (variant,) = variants_of(tmp_path, more=SIMULATED)
    (real,) = variants_of(tmp_path)
    site.judge(site.publish(real), real)
    engine = site.publish(variant)
    site.judge(engine, variant)
    (built,) = ek("build", write_spec(tmp_path, more=SIMULATED), "--json").json
    assert (built["ending"], built["result"], built["simulated"]) == ("reused", "pass", True)
    assert ek("channel", "set", "prod", site.publish(real).digest).code == ExitCode.OK
    assert ek("channel", "set", "simulated", engine.digest, "--dry-run").code == ExitCode.OK
    assert ek("channel", "set", "simulated", engine.digest).code == ExitCode.OK
    for screen in (
        ("build", write_spec(tmp_path, more=SIMULATED)), ("engine", "list"),
        ("channel", "list"), ("engine", "show", engine.digest),
    ):  # fmt: skip
        assert "SIMULATED" in ek(*screen).out, screen
    gate = ek("gate", engine.digest)
    assert (gate.code, "simulated-on-real-node" in gate.out) == (ExitCode.FAIL, True)


def test_simulated_and_real_engines_share_no_channel(ek: Ek, site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path, more=SIMULATED)
    (other,) = variants_of(tmp_path, "[w8a16]", more=SIMULATED)
    for one, content in ((variant, b"a"), (other, b"b")):
        site.judge(site.publish(one, content), one)
    first, second = (engine.digest for engine in site.bench.registry.engines())
    assert ek("channel", "set", "simulated", first).code == ExitCode.OK
    site.tamper("update channels set simulated = 0")
    refused = ek("channel", "set", "simulated", second)
    assert "do not share a channel" in refused.err


@pytest.mark.usefixtures("site")
def test_an_engine_is_asked_by_one_server(ek: Ek, tmp_path: Path) -> None:
    said = ek("build", write_spec(tmp_path), "--served", "--triton")

    assert said.code == 2
    assert "--served and --triton" in said.err
