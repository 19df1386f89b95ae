from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from enginekeeper.errors import InputError
from enginekeeper.validation.asked import asked_checks
from enginekeeper.validation.checks import Limit
from enginekeeper.validation.endings import (
    CUT,
    SEEN,
    BothEndings,
    Endings,
    endings_check,
    load_endings,
)
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.fidelity import FAILING_CHECKS, failing_checks
from tests.factories.arms import small_suite, synthetic_arm

LIMIT = Limit(0.0025, "at most", 0.99, 6)
MOST = 64


def arm(*lengths: int, by: int = 2) -> Endings:
    found = np.asarray(lengths, dtype=np.int64)
    return Endings(found, np.where(found == MOST, CUT, by))


def answers(seed: int = 0) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(2, 50, 32).tolist()
    return drawn


def test_texts_that_end_alike_pass_and_are_counted() -> None:
    said = answers()

    check = endings_check(BothEndings(arm(*said), arm(*said), MOST), LIMIT)

    assert (check.outcome, check.value, check.prompts) == ("pass", 0.0, 32)
    assert "32 of 32 texts end alike" in str(check.note)


def test_arms_that_part_either_way_pass() -> None:
    shift = np.random.default_rng(1).integers(-20, 21, 32)
    other = np.clip(np.asarray(answers()) + shift, 1, MOST).tolist()

    check = endings_check(BothEndings(arm(*other), arm(*answers()), MOST), LIMIT)

    assert check.outcome == "pass"


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ([MOST] * 32, "tokens longer"),
        ([one // 2 for one in answers()], "tokens shorter"),
        ([min(one + 6, 60) for one in answers()], "tokens longer"),
    ],
)
def test_an_engine_that_does_not_end_or_too_soon_fails(engine: list[int], told: str) -> None:
    check = endings_check(BothEndings(arm(*engine), arm(*answers()), MOST), LIMIT)

    assert check.outcome == "fail"
    assert check.finding is not None
    assert told in check.finding.message
    assert (check.finding.taxonomy, check.finding.where[:11]) == ("T21", "question 0:")


def test_texts_of_which_none_ends_are_not_compared() -> None:
    cut = arm(*[MOST] * 32)

    assert endings_check(BothEndings(cut, cut, MOST), LIMIT).outcome == "not run"


@pytest.mark.parametrize(
    ("ended", "outcome", "told"),
    [
        (31, "pass", "moves 49% of the ends would have been seen"),
        (21, "pass", "moves 68% of the ends would have been seen"),
        (12, "pass", "moves 99% of the ends would have been seen"),
        (11, "inconclusive", "too few: 12 texts have to end elsewhere to fail"),
        (1, "inconclusive", "too few: 12 texts have to end elsewhere to fail"),
    ],
)
def test_a_pass_says_what_would_have_been_seen_and_needs_that_much(
    ended: int, outcome: str, told: str
) -> None:
    limit = replace(LIMIT, checks=9)
    said = [*answers()[:ended], *[MOST] * (32 - ended)]

    check = endings_check(BothEndings(arm(*said), arm(*said), MOST), limit)

    assert (check.outcome, check.finding) == (outcome, None)
    assert f"ended within 64 tokens: {ended} by the engine, {ended} by the twin" in str(check.note)
    assert told in str(check.note)


@pytest.mark.parametrize("ended", [12, 20])
def test_what_is_said_to_be_seen_fails(ended: int) -> None:
    limit = replace(LIMIT, checks=9)
    said = [*answers()[:ended], *[MOST] * (32 - ended)]
    share = stats.beta.ppf(SEEN, 12, ended - 11)
    generator, failed = np.random.default_rng(3), 0
    for _ in range(100):
        missed = generator.random(32) < share
        engine = np.where(missed, MOST, said).tolist()
        check = endings_check(BothEndings(arm(*engine), arm(*said), MOST), limit)
        failed += check.outcome == "fail"

    assert failed >= 85


def test_chance_fails_no_more_often_than_it_may() -> None:
    """Arms that part at random, 400 times: at most 1 % of a sixth may fail."""
    generator, failed = np.random.default_rng(2), 0
    for _ in range(400):
        pair = [np.minimum(generator.geometric(0.05, 32), MOST).tolist() for _ in range(2)]
        check = endings_check(BothEndings(arm(*pair[0]), arm(*pair[1]), MOST), LIMIT)
        failed += check.outcome == "fail"
    assert failed <= 4


@pytest.mark.parametrize("said", [None, "nothing says where a text ends"])
def test_without_endings_the_runner_says_why_not(said: str | None) -> None:
    evidence = Evidence(small_suite(), synthetic_arm(small_suite()))

    checks = {one.name: one for one in asked_checks(replace(evidence, endings=said), LIMIT)}

    assert checks["probe.stop"].outcome == "not run"
    assert checks["probe.stop"].note == (said or "the runner offers no text")


def test_only_endings_that_are_compared_take_a_share_of_the_error_of_a_failure() -> None:
    base = Evidence(small_suite(), synthetic_arm(small_suite()))
    compared = BothEndings(arm(*answers()), arm(*answers()), MOST)

    shares = [failing_checks(replace(base, endings=said)) for said in (None, "no end", compared)]

    assert shares == [FAILING_CHECKS, FAILING_CHECKS, FAILING_CHECKS + 1]


ONE = {"lengths": [3, MOST], "ended_by": [2, CUT]}
WHOLE: dict[str, Any] = {"schema": "1", "most": MOST, "engine": ONE, "twin": ONE}


def test_a_file_of_endings_is_read(tmp_path: Path) -> None:
    path = tmp_path / "endings.json"
    path.write_text(json.dumps(WHOLE))

    read = load_endings(path)

    assert isinstance(read, BothEndings)
    assert read.engine.lengths.tolist() == [3, MOST]
    path.write_text(json.dumps({"schema": "1", "absent": "no end"}))
    assert load_endings(path) == "no end"


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "2"},
        {"most": None},
        {"engine": {"lengths": [3], "ended_by": [2]}},
        {"engine": {"lengths": [3, 5], "ended_by": [2, CUT]}},
        {"engine": {"lengths": [3, -1], "ended_by": [2, 2]}},
        {"twin": {"lengths": [], "ended_by": []}},
        {"twin": [1]},
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "endings.json"
    path.write_text(json.dumps({**WHOLE, **changes}))

    with pytest.raises(InputError):
        load_endings(path)
