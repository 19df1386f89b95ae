"""The rules of others, on arms of which it is known what each rule must say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.faults.peers import RULES, Seen, alarms, levenshtein
from enginekeeper.validation.scores import Scores
from tests.factories.arms import small_suite, synthetic_arm

TOKENS = small_suite()


def seen(engine: Scores | None = None, *, noise: float = 0.0, cosine: float = 1.0) -> Seen:
    """An engine beside a source that is sure of nothing, and a good build a little beside it."""
    source = synthetic_arm(TOKENS)
    targets = {"source": source}
    good = synthetic_arm(TOKENS, noise=0.05, seed=1, targets=targets)
    made = synthetic_arm(TOKENS, noise=noise, seed=2, targets=targets)
    beside = np.full(TOKENS.positions, cosine)
    return Seen(
        TOKENS, source, engine or made, good,
        {"logit_cosine": beside, "logit_distance": np.sqrt(2.0 * (1.0 - beside))},
    )  # fmt: skip


def test_the_source_itself_passes_every_rule() -> None:
    assert not any(alarms(seen()).values())


UNPAIRED = "TensorRT-LLM unpaired test, next token"


def test_an_engine_far_from_its_source_fails_every_rule_that_needs_no_right_answer() -> None:
    found = alarms(seen(noise=4.0, cosine=0.5))
    assert {name for name, alarm in found.items() if not alarm} == {UNPAIRED}


def test_the_unpaired_test_alarms_where_its_formula_says() -> None:
    following = np.concatenate([np.asarray(prompt.ids[1:]) for prompt in TOKENS.prompts])
    count = len(following)
    limit = 1.6449 * np.sqrt(2 * 50.0**2 / count) / 100 * count  # answers fewer than all right
    for wrong, alarm in ((int(limit) - 1, False), (int(limit) + 2, True)):
        right = synthetic_arm(TOKENS).top_ids.copy()
        right[:, 0] = following
        worse = right.copy()
        worse[:wrong, 0] = (following[:wrong] + 1) % 64
        source = synthetic_arm(TOKENS)
        engine = replace(source, top_ids=worse, at={"source": source.top_logprobs})
        told = replace(seen(engine), good=replace(source, top_ids=right))
        assert RULES[UNPAIRED](told) is alarm


def test_a_fault_far_below_what_the_recipe_costs_passes_the_rules_of_others() -> None:
    found = alarms(seen(noise=0.051))
    assert not found["KL(source, engine) 1.10 x a good build"]
    assert not found[UNPAIRED]
    assert not found["vLLM check_logprobs_close, along the prompt"]


def test_perplexity_rules_alarm_above_their_share_and_not_below() -> None:
    source = synthetic_arm(TOKENS)
    for loss, share in ((0.008, ()), (0.02, ("1 %",)), (0.06, ("1 %", "5 %"))):
        worse = replace(source, target_logprobs=source.target_logprobs - np.float32(loss))
        found = alarms(seen(replace(worse, at={"source": source.top_logprobs})))
        for percent in ("1 %", "5 %"):
            assert found[f"perplexity, {percent} of the source"] == (percent in share), loss


def test_a_row_that_is_no_number_is_an_alarm_of_perplexity_and_of_every_divergence() -> None:
    source = synthetic_arm(TOKENS)
    finite = np.ones(TOKENS.positions, dtype=np.bool_)
    finite[3] = False
    found = alarms(seen(replace(source, finite=finite, at={"source": source.top_logprobs})))
    assert all(found[name] for name in RULES if name.startswith(("perpl", "llama", "KL")))


def test_only_the_first_difference_of_a_window_is_looked_at() -> None:
    source = synthetic_arm(TOKENS)
    ids = source.top_ids.copy()
    ids[0, [0, 1]] = ids[0, [1, 0]]  # differs, and each is among the other's best
    outside = np.setdiff1d(np.arange(64), ids[1])[:8].astype(np.int32)
    ids[1] = outside  # later in the same window: nothing of it is compared
    rule = RULES["vLLM check_logprobs_close, along the prompt"]
    assert not rule(seen(replace(source, top_ids=ids)))
    ids[0] = source.top_ids[0]
    assert rule(seen(replace(source, top_ids=ids)))


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
)
def test_the_edit_distance_is_that_of_the_textbook(one: list[int], other: list[int]) -> None:
    table = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(table[-1][j] + 1, row[-1] + 1, table[-1][j - 1] + (a != b)))
        table.append(row)
    assert levenshtein(np.array(one, np.int32), np.array(other, np.int32)) == table[-1][-1]


@pytest.mark.parametrize("name", list(RULES))
def test_every_rule_is_named_in_what_they_say_together(name: str) -> None:
    assert name in alarms(seen())
