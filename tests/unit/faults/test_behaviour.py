"""What behaviour alone says: decisions replayed prompt by prompt, on arms made for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from enginekeeper.faults.behaviour import Arms, told
from enginekeeper.faults.comparison import Record, document, render, shuffled
from enginekeeper.faults.grid import bundled_grid, load_grid
from enginekeeper.faults.sample import BELOW, drawn
from enginekeeper.faults.trial import Trial
from enginekeeper.validation.layers import LayerScores
from enginekeeper.validation.rounds import order_of, rounds_of
from enginekeeper.validation.scores import Scores
from tests.factories.arms import small_suite, synthetic_arm
from tests.factories.dictionaries import dictionary_of, engine_of
from tests.factories.policies import policy

TOKENS = small_suite()
ROUNDS = rounds_of(TOKENS)
SOURCE = synthetic_arm(TOKENS)
TWIN = synthetic_arm(TOKENS, noise=0.02, seed=1, targets={"source": SOURCE})


def arms() -> Arms:
    return Arms(TOKENS, SOURCE, TWIN, None, policy(), ROUNDS)


def engine(noise: float, seed: int = 1, prompts: int = len(TOKENS.prompts)) -> Scores:
    """The twin's own arithmetic with that seed and 0.02; else further from it."""
    targets = {"source": SOURCE, "twin": TWIN}
    whole = synthetic_arm(TOKENS, noise=noise, seed=seed, targets=targets)
    return whole.only(order_of(ROUNDS)[:prompts])


def test_a_gross_fault_is_decided_after_a_few_prompts() -> None:
    said = told(arms(), engine(2.0, seed=5))
    assert (said.decision, said.by) == ("fail", "fidelity.kl")
    assert said.prompts < 8
    assert said.tokens < 300


def test_how_much_was_scored_at_once_changes_nothing_of_the_decision() -> None:
    some, whole = told(arms(), engine(2.0, seed=5, prompts=8)), told(arms(), engine(2.0, seed=5))
    assert (some.decision, some.prompts, some.tokens) == ("fail", whole.prompts, whole.tokens)


def test_a_healthy_engine_passes_after_the_whole_suite_in_any_order() -> None:
    healthy = engine(0.02)
    place = {prompt: at for at, prompt in enumerate(order_of(ROUNDS))}
    for seed in range(5):
        other = replace(arms(), rounds=shuffled(ROUNDS, seed))
        said = told(other, healthy.only([place[one] for one in order_of(other.rounds)]))
        assert (said.decision, said.prompts) == ("pass", len(TOKENS.prompts))


def test_a_gain_that_divergence_does_not_show_is_found_where_there_is_a_dictionary() -> None:
    order = order_of(ROUNDS)
    known = dictionary_of(TWIN, order)
    quiet = replace(TWIN, at={"source": TWIN.at["source"]})
    wrong = engine_of(quiet, known, {7: 0.01}, noise=1e-4).only(order)
    located = replace(arms(), dictionary=known)

    said, plain = told(located, wrong), told(arms(), wrong)

    assert (said.decision, said.by) == ("fail", "fidelity.gain")
    assert (plain.decision, plain.by) == ("pass", "fidelity.kl")
    assert told(located, engine(0.02)).decision == "pass"


def test_rounds_in_another_order_hold_the_same_prompts() -> None:
    assert shuffled(ROUNDS, 1) != shuffled(ROUNDS, 2)
    assert sorted(order_of(shuffled(ROUNDS, 1))) == sorted(order_of(ROUNDS))


def test_nothing_is_decided_while_prompts_are_left() -> None:
    assert told(arms(), engine(0.02, prompts=8)).decision == "open"


def test_a_row_that_is_no_number_ends_it_at_once() -> None:
    broken = engine(0.02)
    finite = broken.finite.copy()
    finite[int(broken.offsets[2])] = False
    said = told(arms(), replace(broken, finite=finite))
    assert (said.decision, said.by, said.prompts) == ("fail", "fidelity.finite", 3)


def test_a_layer_that_answers_otherwise_decides_where_nothing_else_did() -> None:
    quiet = np.full((3, 8), 1e-14)
    loud = np.where(np.arange(3)[:, None] == 1, 1e-3, quiet)
    names = ("embedding", "layers.0", "head")
    sizes = np.ones((3, 8))

    heard = [
        told(arms(), engine(0.02), layers=LayerScores(names, 300, apart, quiet, sizes, 0 * sizes))
        for apart in (quiet, loud)
    ]

    assert [one.decision for one in heard] == ["pass", "fail"]
    assert heard[1].by == "probe.layers"


def test_any_beginning_of_a_sample_has_every_stratum_before_any_twice() -> None:
    faults, controls = drawn(load_grid(bundled_grid()), ["a", "b"], "seed")
    strata = {one.stratum for one in faults}
    assert {one.stratum for one in faults[: len(strata)]} == strata
    assert (BELOW, "a") in strata
    assert all(one.case.fault.healthy for one in controls)
    assert len({(one.recipe, one.case.name) for one in faults}) == len(faults)


def test_a_sample_depends_on_its_seed_and_on_nothing_else() -> None:
    grid = load_grid(bundled_grid())
    assert drawn(grid, ["a"], "1") == drawn(grid, ["a"], "1")
    assert drawn(grid, ["a"], "1") != drawn(grid, ["a"], "2")


def trial(case: str, outcome: str, taxonomy: str | None = "T1", **details: object) -> Trial:
    fields = {"in_files": True, "below_limit": False, **details}
    return Trial(case, "fault", taxonomy, outcome=outcome, **fields)  # type: ignore[arg-type]


def records() -> list[Record]:
    quiet, loud = {"rule": False}, {"rule": True}
    return [
        Record("r", trial("both", "hit", culprit_right=True), "scored", "fail", 0.5, 200, 800,
               4.0, loud),
        Record("r", trial("files", "hit", culprit_right=False), "scored", "pass", 1e-5, 900, 900,
               5.0, quiet, "fail"),
        Record("r", trial("seen", "miss"), "scored", "fail", 0.02, 400, 800, 4.0, quiet),
        Record("r", trial("loud", "hit", culprit_right=True), "refused"),
        Record("r", trial("notes", "hit", culprit_right=True), "files only"),
        Record("r", trial("small", "doubt", below_limit=True), "scored", "inconclusive", 1e-4,
               900, 900, 5.0, quiet),
        Record("r", trial("fine", "clear", None), "scored", "pass", 0.0, 900, 900, 5.0, loud),
        Record("r", trial("renamed", "clear", None), "same numbers", "pass", 0.0, 900),
        Record("r", trial("elsewhere", "not applicable")),
    ]  # fmt: skip


def test_the_table_counts_each_way_on_the_same_cases() -> None:
    found = document(records(), {})
    rows = {row["row"]: row for row in found["ways"]}
    assert rows["faults, all drawn: audits alone"]["found"] == 4
    assert rows["faults, all drawn: audits alone"]["trials"] == 5
    alone = {way: rows[f"faults, in the executor: {way}"] for way in
             ("audits alone", "behaviour alone", "behaviour with --probes", "both")}  # fmt: skip
    assert [row["found"] for row in alone.values()] == [3, 3, 4, 4]
    assert {row["trials"] for row in alone.values()} == {4}
    assert alone["audits alone"]["culprit_right"] == 2
    assert alone["behaviour alone"]["culprit_right"] is None


def test_controls_whose_engine_is_the_one_that_was_built_are_counted_apart() -> None:
    rows = {row["row"]: row for row in document(records(), {})["ways"]}
    assert rows["controls, in the executor: both"]["trials"] == 1
    same = rows["controls, the very engine that was built: both"]
    assert (same["trials"], same["found"]) == (1, 0)
    assert not any("faults, the very" in name for name in rows)


def test_doses_below_the_limit_have_a_row_of_their_own() -> None:
    rows = {row["row"]: row for row in document(records(), {})["ways"]}
    below = rows["faults below the limit, in the executor: behaviour alone"]
    assert (below["trials"], below["found"], below["doubt"]) == (1, 0, 1)


def test_others_and_we_are_counted_on_what_was_scored() -> None:
    rows = {row["row"]: row for row in document(records(), {})["peers"]}
    assert (rows["rule: faults"]["found"], rows["rule: faults"]["trials"]) == (1, 3)
    assert (rows["rule: controls"]["found"], rows["rule: controls"]["trials"]) == (1, 1)
    assert rows["ours, both: faults"]["found"] == 3


def test_tokens_to_a_verdict_stand_beside_how_far_a_fault_is() -> None:
    rows = document(records(), {})["divergence"]
    gross = rows[-1]
    assert (gross["from"], gross["tokens_median"], gross["seconds_median"]) == (0.1, 200, 1.0)
    assert sum(row["faults"] for row in rows) == 4


def test_misses_and_wrong_names_are_listed_and_the_text_shows_all_tables() -> None:
    found = document(records(), {"r": {"orders": {"pass": 40}}})
    assert {one["case"] for one in found["wrong"]} == {"files", "seen"}
    text = render(found)
    assert "| faults, in the executor: both | 4 |" in text
    assert "{'orders': {'pass': 40}}" in text
    assert np.isclose(found["ways"][0]["rate"], 0.8)
