from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from enginekeeper.errors import InputError
from enginekeeper.validation.greedy import compare_greedy, decode_against_prefill
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite

PREFIX = 10


def test_equal_continuations_never_differ(arm: Callable[..., Scores]) -> None:
    greedy = compare_greedy(arm(), arm())

    assert greedy.agreement == 1.0
    assert greedy.decode_flips == 0
    assert greedy.decode_exposures == 24 * 11
    assert greedy.gap.sum() == 0.0


def test_the_first_difference_ends_the_comparison(arm: Callable[..., Scores]) -> None:
    p = arm()
    ids, logprobs = p.greedy_ids.copy(), p.greedy_logprobs.copy()
    ids[0, 4:] = (ids[0, 4:] + 1) % 64
    logprobs[0, 2] += 0.2
    logprobs[0, 6] += 9.0
    q = replace(p, greedy_ids=ids, greedy_logprobs=logprobs)

    greedy = compare_greedy(p, q)

    assert greedy.first_difference[:2] == (4, None)
    assert greedy.steps[:2] == (5, 12)
    assert greedy.gap[0] == pytest.approx(0.02, rel=1e-3)
    assert greedy.gap_steps[0] == 3
    assert greedy.decode_flips == 1


def test_a_difference_at_the_first_step_is_prefills(arm: Callable[..., Scores]) -> None:
    p = arm()
    ids = p.greedy_ids.copy()
    ids[5] = (ids[5] + 1) % 64

    greedy = compare_greedy(p, replace(p, greedy_ids=ids))

    assert greedy.first_difference[5] == 0
    assert greedy.decode_flips == 0


def test_one_arm_ending_earlier_is_a_difference(arm: Callable[..., Scores]) -> None:
    p = arm()
    ids = p.greedy_ids.copy()
    ids[2, 6:] = -1

    greedy = compare_greedy(p, replace(p, greedy_ids=ids))

    assert greedy.first_difference[2] == 6


def test_both_arms_ending_together_is_agreement(arm: Callable[..., Scores]) -> None:
    ids = arm().greedy_ids.copy()
    ids[2, 6:] = -1
    p = replace(arm(), greedy_ids=ids)

    greedy = compare_greedy(p, p)

    assert greedy.first_difference[2] is None
    assert greedy.steps[2] == 6


def test_other_greedy_settings_are_refused(arm: Callable[..., Scores]) -> None:
    p = arm()
    q = replace(p, greedy_ids=p.greedy_ids[:, :5], greedy_logprobs=p.greedy_logprobs[:, :5])

    with pytest.raises(InputError, match="another number of prompts or tokens"):
        compare_greedy(p, q)


@pytest.mark.parametrize(("repeated", "steps"), [(0, 0), (3, 3), (12, 11)])
def test_decode_is_held_against_prefill_where_the_text_repeats(
    tokens: TokenizedSuite, arm: Callable[..., Scores], repeated: int, steps: int
) -> None:
    scores = arm()
    row, span = 23, list(scores.spans())[23]
    ids, logprobs = scores.greedy_ids.copy(), scores.greedy_logprobs.copy()
    told = np.asarray(tokens.prompts[row].ids[PREFIX:])
    ids[row] = (told[:12] + 1) % 64
    ids[row, :repeated] = told[:repeated]
    logprobs[row] = scores.top_logprobs[span.start + PREFIX - 1 :][:12, 0] + 0.1
    scores = replace(scores, greedy_ids=ids, greedy_logprobs=logprobs)

    sums, sizes = decode_against_prefill(scores, tokens, PREFIX)

    assert sizes[row] == steps
    assert sums[row] == pytest.approx(0.005 * steps, rel=1e-3)


def test_prompts_shorter_than_the_prefix_have_nothing_to_compare(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    _, sizes = decode_against_prefill(arm(), tokens, 50)

    assert sizes.sum() == 0
