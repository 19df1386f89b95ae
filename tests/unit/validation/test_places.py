from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from enginekeeper.validation.checks import Limit, Rule
from enginekeeper.validation.divergence import Comparison
from enginekeeper.validation.pieces import NO_PIECES, Pieces
from enginekeeper.validation.places import (
    FLOOR_FAILS,
    TAIL_DOUBTS,
    TAIL_FAILS,
    places_check,
    recalled,
    tail_check,
)
from enginekeeper.validation.tokens import TokenizedPrompt, TokenizedSuite

LIMIT = Limit(0.0025, "at most", 0.99, 5, "max_fidelity_kl")
PROMPTS, LENGTH = 24, 80
Doubles = NDArray[np.float64]


def comparison(kl: Doubles) -> Comparison:
    """Twenty-four prompts, a third of them of digits; token 7 is read at position 3 of all."""
    kinds = ("prose", "code", "digits")
    prompts = tuple(
        TokenizedPrompt(f"p{n}", kinds[n % 3], (1, 2, 3, 7, *range(8, LENGTH + 5)))
        for n in range(PROMPTS)
    )
    flat = kl.ravel()
    return Comparison(
        TokenizedSuite(prompts, 512),
        np.arange(0, PROMPTS * LENGTH + 1, LENGTH),
        np.isfinite(flat),
        flat,
        np.ones(len(flat), dtype=np.bool_),
        np.zeros(len(flat)),
    )


def noise(size: float, seed: int = 0) -> Doubles:
    made: Doubles = size * np.random.default_rng(seed).chisquare(1, (PROMPTS, LENGTH))
    return made


def with_damage(where: Any, much: float) -> Comparison:  # noqa: ANN401 - what indexes an array
    kl = noise(1e-4)
    kl[where] += much
    return comparison(kl)


def test_noise_is_inside_everywhere() -> None:
    check = places_check(comparison(noise(2e-4)), None, NO_PIECES, LIMIT)

    assert (check.outcome, check.finding) == ("pass", None)
    assert "7 of 7 parts are proven inside" in str(check.note)


def test_a_part_may_be_further_away_than_the_suite_as_half_precision_leaves_it() -> None:
    """The proportions of SmolLM2-135M in bfloat16, a little louder, on four times the prompts."""
    kl = noise(1.5e-3)
    kl[:, :16] = noise(3.3e-3, seed=5)[:, :16]

    check = places_check(comparison(kl), None, NO_PIECES, LIMIT)

    assert comparison(kl).mean(kl.ravel()) < LIMIT.value
    assert (check.outcome, check.finding) == ("pass", None)


def test_it_passes_only_where_every_part_is_proven_inside() -> None:
    kl = noise(1e-5)
    kl[:, 64:] = 2.8e-3  # known exactly, and nearest to its limit
    kl[2::3, :16] = 0.0
    kl[2, :16] = 0.09  # one prompt in eight: proven neither way

    check = places_check(comparison(kl), None, NO_PIECES, LIMIT)

    assert check.outcome == "shown"
    assert "7 of 7" not in str(check.note)


@pytest.mark.parametrize(
    ("where", "name", "taxonomy"),
    [
        ((slice(None), slice(64, None)), "positions from 64", "T15"),
        ((slice(2, None, 3),), "texts of the kind digits", None),
        ((slice(None), slice(None)), "positions from", None),
    ],
)
def test_damage_in_a_part_fails_and_the_part_is_named(
    where: tuple[slice, ...], name: str, taxonomy: str | None
) -> None:
    kl = noise(1e-4)
    kl[where] += noise(0.02, seed=5)[where]

    check = places_check(comparison(kl), None, NO_PIECES, LIMIT)

    assert check.outcome == "fail"
    assert check.finding is not None
    assert check.finding.where.startswith(name)
    assert check.finding.taxonomy == taxonomy


def test_what_is_recalled_is_what_was_there_and_how_far_back() -> None:
    needle = (901, 902, 903, 904, 905)
    ids = (*needle, *range(100), *needle, 7, *needle)

    back = recalled(ids)

    assert back[104 + 5 - 1] == 105  # 905 was there 105 tokens before
    assert back[-1] == 6  # of two places the latest
    assert np.count_nonzero(back) == 2
    assert recalled((1, 2)).tolist() == [0]


def test_a_context_that_is_forgotten_fails_where_it_is_recalled() -> None:
    kl = noise(1e-4)
    kl[:, 76] += 0.08  # the last token of the needle, 70 tokens after it stood there
    found = comparison(kl)
    needle = (301, 302, 303, 304, 305)
    ids = (*range(3), *needle, *range(8, 73), *needle, *range(3))
    prompts = tuple(replace(prompt, ids=ids) for prompt in found.tokens.prompts)
    found = replace(found, tokens=replace(found.tokens, prompts=prompts))

    check = places_check(found, None, NO_PIECES, LIMIT)

    assert recalled(ids)[76] == 70
    assert check.finding is not None
    assert (check.finding.where, check.finding.taxonomy) == (
        "text that was there 64 tokens before and more", "T16",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("start", "fifth"), [(4, "first"), (94, "second"), (180, "third"), (270, "fourth")]
)
def test_what_is_forgotten_at_one_depth_fails_there_though_other_depths_are_remembered(
    start: int, fifth: str
) -> None:
    """Five needles at five depths, asked for at the end, and one of them is lost."""
    needles = [tuple(range(700 + 10 * n, 706 + 10 * n)) for n in range(5)]
    depths = (4, 94, 180, 270, 350)
    ids = list(range(420))
    for place, needle in zip(depths, needles, strict=True):
        ids[place : place + 6] = needle
    ids += [token for needle in needles for token in needle]
    prompts = tuple(TokenizedPrompt(f"p{n}", "prose", tuple(ids)) for n in range(PROMPTS))
    length = len(ids) - 1
    kl = 1e-4 * np.random.default_rng(0).chisquare(1, (PROMPTS, length))
    lost = 420 + 6 * depths.index(start)
    kl[:, lost + 3 : lost + 5] += 0.3
    flat, whole = kl.ravel(), np.ones(kl.size, dtype=np.bool_)
    found = Comparison(
        TokenizedSuite(prompts, 1024), np.arange(0, kl.size + 1, length), whole, flat, whole,
        np.zeros(kl.size),
    )  # fmt: skip

    check = places_check(found, None, NO_PIECES, LIMIT)

    assert found.mean(found.kl) < LIMIT.value
    assert check.finding is not None
    assert (check.finding.where, check.finding.taxonomy) == (
        f"text that was there in the {fifth} fifth of what was read", "T16",
    )  # fmt: skip


def test_damage_at_one_token_is_found_by_its_class_though_the_mean_is_inside() -> None:
    pieces = Pieces({token: "7" if token == 7 else "a" for token in range(512)})
    found = with_damage((slice(None), 3), 0.03)

    check = places_check(found, None, pieces, LIMIT)

    assert found.mean(found.kl) < LIMIT.value
    assert check.finding is not None
    assert check.finding.where == "reading tokens of the class digits"


def test_a_part_is_allowed_twice_the_floor_that_is_there() -> None:
    floor, engine = noise(0.01), noise(0.01, seed=2)

    healthy = places_check(comparison(engine), comparison(floor), NO_PIECES, LIMIT)
    wrong = places_check(comparison(5 * engine), comparison(floor), NO_PIECES, LIMIT)

    assert (healthy.outcome, wrong.outcome) == ("pass", "fail")
    assert healthy.limit == pytest.approx(0.02, rel=0.2)


def test_what_is_not_proven_is_shown_and_decides_nothing() -> None:
    kl = noise(1e-5)
    kl[0, :40] = 0.5

    check = places_check(comparison(kl), None, NO_PIECES, LIMIT)

    assert (check.outcome, check.finding) == ("shown", None)


def test_too_few_prompts_are_not_run() -> None:
    found = comparison(noise(0.1))
    few = replace(found, kept=np.arange(len(found.kl)) < 5 * LENGTH)

    assert places_check(few, None, NO_PIECES, LIMIT).outcome == "not run"


def test_parts_may_be_asked_on_the_way() -> None:
    rule = Rule(anytime=True, pass_share=0.5, fail_share=0.5)

    check = places_check(
        comparison(noise(0.5)), comparison(noise(0.01)), NO_PIECES, replace(LIMIT, rule=rule)
    )

    assert check.outcome == "fail"


def test_healthy_engines_are_stopped_no_more_often_than_the_share_of_a_check() -> None:
    """At twice its floor everywhere an engine is just inside: the hardest healthy one there is."""
    alarms = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        level = generator.lognormal(0.0, 0.6, (PROMPTS, 1))
        floor = comparison(noise(0.01, seed=1000 + seed) * level)
        engine = comparison(noise(0.02, seed=seed) * level)
        alarms += places_check(engine, floor, NO_PIECES, LIMIT).outcome == "fail"

    assert alarms <= 2  # 0.2 % is asked for


@pytest.mark.parametrize(
    ("much", "outcome"),
    [(0.5, "pass"), (1.5, "inconclusive"), (4.5, "fail")],
)
def test_one_position_that_no_arithmetic_explains_is_named(much: float, outcome: str) -> None:
    nats = much * TAIL_DOUBTS * LIMIT.value
    found = with_damage((5, 3), nats)

    check = tail_check(found, None, Pieces({7: "ß"}), LIMIT)

    assert check.outcome == outcome
    assert check.limit == TAIL_FAILS * LIMIT.value
    assert "p5, position 3, after reading 'ß'" in str(check.note)
    assert (check.finding is not None) is (outcome == "fail")


def test_the_tail_of_a_floor_raises_what_a_position_may_be_away() -> None:
    floor = noise(0.01)
    floor[2, 2] = 1.0

    check = tail_check(with_damage((5, 3), 2.5), comparison(floor), NO_PIECES, LIMIT)

    assert (check.outcome, check.limit) == ("pass", FLOOR_FAILS * 1.0)


def test_without_a_finite_position_there_is_no_tail() -> None:
    nothing = comparison(np.full((PROMPTS, LENGTH), np.nan))

    assert tail_check(nothing, None, NO_PIECES, LIMIT).outcome == "not run"
