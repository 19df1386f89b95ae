from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from enginekeeper.validation.checks import Limit
from enginekeeper.validation.divergence import Comparison, compare
from enginekeeper.validation.pieces import NO_PIECES, Pieces
from enginekeeper.validation.profiles import (
    by_position,
    by_token_class,
    detectable,
    power,
    worst_windows,
)
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedPrompt, TokenizedSuite

LIMIT = Limit(0.01, "at most", 0.99, 4)


def comparison(kl: list[list[float]]) -> Comparison:
    prompts = tuple(
        TokenizedPrompt(f"p{n}", "prose", tuple(range(len(row) + 1))) for n, row in enumerate(kl)
    )
    flat = np.asarray([one for row in kl for one in row])
    offsets = np.cumsum([0, *(len(row) for row in kl)])
    kept = np.isfinite(flat)
    nothing = np.zeros(len(flat))
    return Comparison(
        TokenizedSuite(prompts, 512), offsets, kept, flat, nothing.astype(np.bool_), nothing
    )


def test_damage_that_begins_late_shows_in_its_bucket() -> None:
    rows = by_position(comparison([[0.0] * 32 + [1.0] * 8, [0.0] * 20]), None)

    assert [(row["from"], row["to"], row["positions"], row["kl"]) for row in rows] == [
        (0, 15, 32, 0.0), (16, 31, 20, 0.0), (32, 63, 8, 1.0),
    ]  # fmt: skip
    assert {row["noise"] for row in rows} == {None}


def test_noise_stands_beside_what_it_explains() -> None:
    rows = by_position(comparison([[0.2] * 20]), comparison([[0.1] * 16 + [0.3] * 4]))

    assert [row["noise"] for row in rows] == [0.1, 0.3]


def test_rows_that_are_not_finite_are_in_no_bucket() -> None:
    rows = by_position(comparison([[0.5, np.nan, 0.5]]), None)

    assert [(row["positions"], row["kl"]) for row in rows] == [(2, 0.5)]


def test_the_power_rises_with_the_dose_and_with_the_prompts() -> None:
    few = power(comparison([[0.0, 0.0]] * 12), LIMIT)
    many = power(comparison([[0.0, 0.0]] * 200), LIMIT)

    chances = [row["fails"] for row in few]
    assert chances == sorted(chances)
    assert few[-1]["kl"] == pytest.approx(0.1)
    assert many[5]["fails"] > few[5]["fails"]
    at_the_limit = next(row["fails"] for row in many if row["kl"] == 0.01)
    assert at_the_limit == pytest.approx(1.0 - LIMIT.failure_confidence, abs=1e-6)


def test_what_is_detectable_is_where_the_power_is_four_fifths() -> None:
    few, many = (detectable(comparison([[0.0, 0.0]] * count), LIMIT) for count in (24, 200))

    assert detectable(comparison([[0.0, 0.0]] * 2), LIMIT) is None
    assert detectable(comparison([]), LIMIT) is None
    assert few is not None
    assert many is not None
    assert LIMIT.value < many < few
    for row in power(comparison([[0.0, 0.0]] * 24), LIMIT):
        assert (row["kl"] >= few) == (row["fails"] >= 0.8)


def test_what_varies_more_between_prompts_is_seen_less() -> None:
    even, uneven = comparison([[0.01]] * 40), comparison([[0.0]] * 30 + [[0.04]] * 10)

    assert power(uneven, LIMIT)[6]["fails"] < power(even, LIMIT)[6]["fails"]


def test_how_noise_varies_says_nothing_of_how_a_fault_would() -> None:
    calm, wild = comparison([[1e-9]] * 24), comparison([[0.0]] * 22 + [[1e-8]] * 2)

    assert detectable(wild, LIMIT) == detectable(calm, LIMIT)
    assert power(wild, LIMIT) == power(calm, LIMIT)


def test_nothing_scored_could_have_seen_nothing() -> None:
    assert power(comparison([[np.nan]]), LIMIT) == []


def test_the_worst_windows_are_of_different_prompts(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    twin = arm(noise=0.1, seed=1)
    engine = arm(noise=0.5, seed=2, targets={"twin": twin})
    found = compare(twin, engine, tokens, at="twin")

    windows = worst_windows(found, {"twin": twin, "engine": engine}, NO_PIECES)

    assert len({window["prompt"] for window in windows}) == 3
    worst = found.worst_window()
    assert (windows[0]["prompt"], windows[0]["start"]) == (worst.prompt, worst.start)
    number = [prompt.id for prompt in tokens.prompts].index(worst.prompt)
    row = int(found.offsets[number]) + worst.start
    assert windows[0]["rows"][0] == {
        "next": f"[{tokens.prompts[number].ids[worst.start + 1]}]",
        "twin": f"[{twin.top_ids[row, 0]}]",
        "engine": f"[{engine.top_ids[row, 0]}]",
        "kl": pytest.approx(float(found.kl[row]), rel=1e-5),
    }


def test_classes_are_of_the_token_that_follows() -> None:
    pieces = Pieces({0: "a", 1: " b", 2: "7", 3: "?"}, frozenset())

    found = by_token_class(comparison([[1.0, 2.0, 3.0]]), pieces)

    assert found == {
        "digits": {"positions": 1, "kl": 2.0},
        "other": {"positions": 1, "kl": 1.0},
        "punctuation": {"positions": 1, "kl": 3.0},
    }
    assert by_token_class(comparison([[1.0]]), NO_PIECES) == {}
