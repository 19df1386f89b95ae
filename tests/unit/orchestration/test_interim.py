"""The deciding side of a run in rounds, with the files that a step would write."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.orchestration.interim import Interim
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.rounds import rounds_of
from enginekeeper.validation.scores import MalformedScoresError, Scores
from tests.factories.arms import small_suite, synthetic_arm
from tests.factories.policies import policy
from tests.factories.step_modules import step_module

TOKENS = small_suite()
ROUNDS = rounds_of(TOKENS)
ORDER = tuple(number for one in ROUNDS for number in one)


def arms(*, noise: float, seed: int) -> Evidence:
    source = synthetic_arm(TOKENS)
    twin = synthetic_arm(TOKENS, noise=0.02, seed=1, targets={"source": source})
    engine = synthetic_arm(TOKENS, noise=noise, seed=seed, targets={"source": source, "twin": twin})
    return Evidence(TOKENS, engine=engine, source=source, twin=twin)


def interim(evidence: Evidence) -> Interim:
    return Interim(
        TOKENS,
        lambda engine, order: replace(evidence, engine=engine, scored=order),
        policy(),
    )


def show(engine: Scores, chosen: tuple[int, ...], output: Path) -> None:
    """Writes the open round as a step does."""
    part = engine.only(chosen)
    fields = asdict(part)
    arrays = {
        name: fields[name]
        for name in ("offsets", "top_ids", "top_logprobs", "target_logprobs", "greedy_ids",
                     "greedy_logprobs")
    }  # fmt: skip
    arrays |= {f"at_{name}": array for name, array in part.at.items()}
    arrays["finite"] = part.finite.astype(np.uint8)
    path = output.with_name(output.name + ".part")
    step_module("_score_file").write_scores(path, arrays, arm="engine", meta={})


def play(referee: Interim, engine: Scores, output: Path) -> list[str]:
    """Asks after every prompt until told to stop, and returns the answers."""
    hear, answers = referee.answering(output), []
    scored = 0
    for one in ROUNDS:
        for place in range(1, len(one) + 1):
            scored += 1
            show(engine, one[:place], output)
            hear("progress 1/24 scoring")
            hear(f"ask {scored}")
            answers.append(output.with_name(output.name + ".answer").read_text())
            if answers[-1].endswith("stop"):
                return answers
    return answers


def test_a_wrong_engine_is_told_to_stop_after_a_few_prompts(tmp_path: Path) -> None:
    evidence = arms(noise=1.5, seed=2)
    referee = interim(evidence)

    answers = play(referee, evidence.engine, tmp_path / "scores")

    assert answers[:-1] == [f"{n} go" for n in range(1, len(answers))]
    assert answers[-1] == f"{len(answers)} stop"
    assert referee.stop is not None
    assert (referee.stop.result, referee.stop.prompts) == ("fail", len(answers))
    assert referee.order == ORDER[: len(answers)]
    assert len(answers) <= 5


def test_a_healthy_engine_goes_on_to_the_end_of_a_small_suite(tmp_path: Path) -> None:
    evidence = arms(noise=0.02, seed=1)
    referee = interim(evidence)

    answers = play(referee, evidence.engine, tmp_path / "scores")

    assert answers == [f"{n} go" for n in range(1, 25)]
    assert (referee.stop, referee.order) == (None, ORDER)


def test_a_second_run_knows_nothing_of_the_first(tmp_path: Path) -> None:
    wrong, healthy = arms(noise=1.5, seed=2), arms(noise=0.02, seed=1)
    referee = interim(healthy)
    play(referee, healthy.engine, tmp_path / "first")
    referee.known = lambda engine, order: replace(wrong, engine=engine, scored=order)

    answers = play(referee, wrong.engine, tmp_path / "second")

    assert answers[-1] == f"{len(answers)} stop"
    assert referee.order == ORDER[: len(answers)]


def test_scores_of_other_prompts_end_the_run(tmp_path: Path) -> None:
    evidence = arms(noise=0.02, seed=1)
    output = tmp_path / "scores"
    show(evidence.engine, (ORDER[3],), output)

    with pytest.raises(MalformedScoresError, match="other prompts"):
        interim(evidence).answering(output)("ask 1")


def test_what_decides_is_part_of_the_products_name() -> None:
    referee = interim(arms(noise=0.02, seed=1))

    assert referee.inputs()["rounds"] == [list(one) for one in ROUNDS]
    assert referee.inputs()["policy"] == policy().as_dict()
