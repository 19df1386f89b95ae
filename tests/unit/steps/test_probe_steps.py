"""What the steps that probe decide without an engine: which choices are wrong, and how long."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.factories.step_modules import step_module

BEST = np.array([0.5, 4.0, 1.0, 3.99])
"""Of four tokens 1 is the best one, and 3 as good as bfloat16 can tell."""


def answer(*ids: int, rows: list[NDArray[np.float64]] | None = None) -> SimpleNamespace:
    return SimpleNamespace(ids=ids, generated=[BEST] * len(ids) if rows is None else rows)


def test_tokens_that_their_logits_choose_are_not_wrong() -> None:
    said = step_module("probe_trtllm")._chosen([answer(1, 1), answer(3), answer()])

    assert said == {"asked": 3, "wrong": []}


@pytest.mark.parametrize(
    ("wrong", "step", "token"),
    [
        (answer(1, 2), 1, 2),
        (answer(1, 2, 0), 1, 2),  # the first one of a continuation is told
        (answer(0, rows=[np.array([np.nan, 1.0, 2.0, 3.0])]), 0, 0),
        (answer(1, 1, rows=[BEST, np.roll(BEST, 1)]), 1, 1),  # of another position
    ],
)
def test_a_token_that_its_logits_do_not_choose_is_told(
    wrong: SimpleNamespace, step: int, token: int
) -> None:
    said = step_module("probe_trtllm")._chosen([answer(1), wrong])

    assert said["asked"] == 2
    (told,) = said["wrong"]
    assert told.startswith(f"continuation 1, token {step}: {token} was generated")


def test_prompts_are_cut_at_four_lengths_and_short_ones_stay_whole() -> None:
    prompts = [tuple(range(60))] * 5 + [tuple(range(9))]

    cut = step_module("probe_engine")._of_other_lengths(prompts, 48)

    assert [len(ids) for ids in cut] == [48, 41, 34, 27, 48, 9]
    assert all(list(ids) == list(range(len(ids))) for ids in cut)
