from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import enginekeeper.steps

STEPS = Path(enginekeeper.steps.__file__).parent


@dataclass(frozen=True)
class Logprob:
    """What vLLM returns for one token, as far as it is read."""

    logprob: float


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module as a step sees it: its own folder is the import path."""
    monkeypatch.syspath_prepend(str(STEPS))
    yield importlib.import_module("_vllm_logprobs")
    for name in ("_vllm_logprobs", "_step"):
        sys.modules.pop(name, None)


def entry(**logprobs: float) -> dict[int, Logprob]:
    return {int(token[1:]): Logprob(value) for token, value in logprobs.items()}


def test_the_target_is_not_one_of_the_best_unless_it_is(conversion: ModuleType) -> None:
    entries = [
        None,
        entry(t9=-7.0, t1=-0.5, t2=-1.5),  # the target is a third token
        entry(t3=-0.1, t4=-3.0),  # the target is among the best
    ]

    rows = conversion.prompt_rows([5, 9, 4], entries, 2)

    assert rows.top_ids.tolist() == [[1, 2], [3, 4]]
    assert rows.target_logprobs.tolist() == [-7.0, -3.0]
    assert rows.finite.tolist() == [1, 1]


def test_the_best_come_in_descending_order(conversion: ModuleType) -> None:
    rows = conversion.prompt_rows([5, 9], [None, entry(t9=-2.0, t3=-3.0, t1=-0.5)], 3)

    assert rows.top_ids.tolist() == [[1, 9, 3]]
    assert rows.top_logprobs.tolist() == [[-0.5, -2.0, -3.0]]


def test_a_row_that_is_not_finite_is_kept_and_marked(conversion: ModuleType) -> None:
    rows = conversion.prompt_rows([5, 9], [None, entry(t9=math.nan, t1=math.nan)], 2)

    assert rows.finite.tolist() == [0]
    assert math.isnan(rows.target_logprobs[0])
    assert rows.top_ids.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "entries",
    [
        [None],
        [None, None],
        [None, entry(t1=-1.0, t2=-2.0)],
        [None, entry(t9=-1.0)],
        [None, entry(t9=-9.0, t1=-1.0, t2=-2.0, t3=-3.0)],
    ],
    ids=["too few rows", "no row", "no target", "too few tokens", "too many tokens"],
)
def test_an_answer_of_another_shape_is_refused(
    conversion: ModuleType, entries: list[dict[int, Logprob] | None]
) -> None:
    with pytest.raises(Exception, match="vLLM") as caught:
        conversion.prompt_rows([5, 9], entries, 2)

    assert type(caught.value).__name__ == "Refusal"


def test_a_continuation_is_padded_after_its_end(conversion: ModuleType) -> None:
    ids, logprobs = conversion.greedy_row([7, 2], [entry(t7=-0.5), entry(t2=-0.25)], 4)

    assert ids.tolist() == [7, 2, -1, -1]
    assert logprobs.tolist() == [-0.5, -0.25, 0.0, 0.0]
