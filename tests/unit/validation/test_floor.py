from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.floor import FLOOR_FACTOR, Floor, measured_floor
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.probes import ProbeScores
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.verdict import judge
from tests.factories.policies import policy

Arm = Callable[..., Scores]

POLICY = policy(max_perplexity_ratio=3.0, max_quality_kl=1.0, min_top1_agreement=0.3)
RECIPE = {"noise": 0.3, "seed": 1}
AUDITS = (AuditReport("config", ()), AuditReport("weights", ()))


def chaotic(tokens: TokenizedSuite, arm: Arm, **engine: Any) -> Evidence:  # noqa: ANN401
    """Two executions of one recipe that differ as much as the recipe from the source."""
    source = arm()
    twin = arm(**RECIPE, targets={"source": source})
    nudged = arm(noise=0.3, seed=2, targets={"twin": twin})
    made = arm(**{"noise": 0.3, "seed": 3, **engine}, targets={"source": source, "twin": twin})
    return Evidence(tokens, engine=made, source=source, twin=twin, nudged=nudged, audits=AUDITS)


def costly(tokens: TokenizedSuite, arm: Arm) -> Evidence:
    """Two executions of a recipe whose weights cost more than its activations wobble."""
    source = arm(noise=0.9, seed=5)
    twin = arm(noise=0.05, seed=1, targets={"source": source})
    nudged = arm(noise=0.05, seed=2, targets={"twin": twin})
    made = arm(noise=0.05, seed=3, targets={"source": source, "twin": twin})
    return Evidence(tokens, made, source=source, twin=twin, nudged=nudged, audits=AUDITS)


def with_ceiling(evidence: Evidence, share: float) -> tuple[Floor, AcceptancePolicy]:
    """The floor, and a policy that allows a share of it in quality."""
    floor = measured_floor(evidence)
    assert floor is not None
    return floor, replace(POLICY, max_quality_kl=share * floor.value)


def batches(divergence: float) -> ProbeScores:
    """An engine that says something else in a batch of two, by about as much."""
    rows, best = 8 * 12, 8
    base = np.full((rows, best), np.log(1.0 / (best + 1)), dtype=np.float32)
    moved = base.copy()
    step = np.sqrt(divergence * (best + 1) / 2 * np.linspace(0.9, 1.1, rows))
    moved[:, 0], moved[:, 1] = base[:, 0] + step, base[:, 1] - step
    return ProbeScores(
        np.arange(0, rows + 1, 12),
        base,
        {"batch-2": moved},
        {"batch-2": np.ones(rows, dtype=np.bool_)},
        {"batch": ("batch-2",)},
    )


def test_a_healthy_engine_of_a_chaotic_recipe_is_judged_by_the_recipes_floor(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    evidence = chaotic(tokens, arm)

    with_floor = judge(evidence, POLICY)
    without = judge(replace(evidence, nudged=None), POLICY)

    assert with_floor.fidelity.result == "pass"
    assert without.fidelity.result == "fail"


def test_the_floor_its_multiple_and_the_limit_are_in_the_verdict(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    document = judge(chaotic(tokens, arm), POLICY).document()

    checks = {check["check"]: check for check in document["checks"]}
    assert checks["fidelity.floor"]["result"] == "shown"
    expected = FLOOR_FACTOR * checks["fidelity.floor"]["value"]
    assert checks["fidelity.kl"]["limit"] == pytest.approx(expected, rel=1e-5)
    assert document["policy"]["max_fidelity_kl"] == POLICY.max_fidelity_kl


def test_an_engine_far_above_the_floor_fails(tokens: TokenizedSuite, arm: Arm) -> None:
    verdict = judge(chaotic(tokens, arm, noise=1.0), POLICY)

    assert verdict.fidelity.result == "fail"


def test_the_floor_raises_the_limit_no_higher_than_the_source_may_be_away(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    evidence = chaotic(tokens, arm)
    _, strict = with_ceiling(evidence, 1 / 2)

    line = judge(evidence, strict).fidelity

    kl = line.checks[0]
    assert (kl.limit, kl.outcome) == (strict.max_quality_kl, "inconclusive")
    assert "floor alone allows" in str(kl.note)
    assert line.result == "inconclusive"


def test_a_recipe_that_costs_more_than_its_floor_is_decided_by_it(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    evidence = costly(tokens, arm)
    floor, strict = with_ceiling(evidence, 1 / 2)
    assert floor.raised < floor.cost

    verdict = judge(evidence, strict)

    kl = verdict.fidelity.checks[0]
    assert (kl.limit, kl.outcome) == (floor.raised, "pass")
    assert "the recipe's own floor sets the limit" in str(kl.note)
    assert verdict.quality.result == "fail"
    assert "honest but too costly" in verdict.summary


def test_the_floor_withdraws_a_probe_that_it_may_explain_but_no_row_that_is_not_finite(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    evidence = chaotic(tokens, arm)
    floor, strict = with_ceiling(evidence, 1 / 4)
    asked = batches(floor.value)
    broken = replace(asked, finite={"batch-2": np.arange(len(asked.base)) > 0})

    healthy, wrong = (
        judge(replace(evidence, probes=one), strict).fidelity for one in (asked, broken)
    )

    outcomes = [
        {check.name: check.outcome for check in line.checks}["probe.batch"]
        for line in (healthy, wrong)
    ]
    assert outcomes == ["inconclusive", "fail"]


def test_above_its_floor_an_engine_fails_whatever_the_ceiling(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    evidence = chaotic(tokens, arm, noise=1.0)
    _, strict = with_ceiling(evidence, 1 / 2)

    line = judge(evidence, strict).fidelity

    assert line.result == "fail"


def test_a_floor_below_the_policys_limit_changes_nothing(tokens: TokenizedSuite, arm: Arm) -> None:
    evidence = chaotic(tokens, arm, noise=0.3, seed=1)
    assert evidence.twin is not None
    calm = replace(evidence, nudged=arm(**RECIPE, targets={"twin": evidence.twin}))

    one = judge(calm, POLICY).document()
    two = judge(replace(calm, nudged=None), POLICY).document()

    assert one["checks"][0] == two["checks"][0]
    assert one["checks"][0]["limit"] == POLICY.max_fidelity_kl


def test_pairing_keeps_the_mean_and_removes_what_both_share(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    floor = measured_floor(chaotic(tokens, arm))
    assert floor is not None
    shared = floor.apart.per_prompt(floor.apart.kl)

    paired = floor.paired(FLOOR_FACTOR * shared)

    assert paired.sum() == pytest.approx(FLOOR_FACTOR * shared.sum())
    np.testing.assert_allclose(paired / floor.apart.sizes, FLOOR_FACTOR * floor.value)


def test_the_order_of_scoring_changes_no_bound(tokens: TokenizedSuite, arm: Arm) -> None:
    evidence = chaotic(tokens, arm)
    order = tuple(reversed(range(len(tokens.prompts))))
    reordered = replace(evidence, engine=evidence.engine.only(order), scored=order)

    one, two = (judge(each, POLICY).fidelity.checks[0] for each in (evidence, reordered))

    assert (two.value, two.lower, two.upper) == pytest.approx((one.value, one.lower, one.upper))


def test_without_a_second_execution_there_is_no_floor(tokens: TokenizedSuite, arm: Arm) -> None:
    assert measured_floor(replace(chaotic(tokens, arm), nudged=None)) is None
    assert measured_floor(replace(chaotic(tokens, arm), twin=None)) is None


def test_the_floor_is_measured_once_for_all_prompts_of_a_run(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    evidence = chaotic(tokens, arm)

    one, two = (
        measured_floor(replace(evidence, engine=evidence.engine.only(order), scored=order))
        for order in ((0, 1), (0, 1, 2))
    )

    assert one is two
