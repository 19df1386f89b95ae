"""Recipe twin, checkpoint twin and engine: which side of the checkpoint a fault is on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enginekeeper.validation.checks import Check
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.triangle import as_the_recipe, blamed
from enginekeeper.validation.verdict import Verdict, judge
from tests.factories.arms import FINE, Arm, evidence
from tests.factories.policies import policy


def check(verdict: Verdict, name: str) -> dict[str, Any]:
    return next(c for c in verdict.document()["checks"] if c["check"] == name)


def wrong_engine(tokens: TokenizedSuite, arm: Arm) -> tuple[Evidence, Scores]:
    """An engine far from its recipe twin, and that twin."""
    found = evidence(tokens, arm, engine={"noise": 1.5, "seed": 2})
    assert found.twin is not None
    return found, found.twin


def test_an_honest_checkpoint_is_shown_to_be_its_recipe(tokens: TokenizedSuite, arm: Arm) -> None:
    healthy = evidence(tokens, arm)
    assert healthy.twin is not None

    verdict = judge(replace(healthy, checkpoint_twin=as_the_recipe(healthy.twin)), policy())

    export, builder = (check(verdict, name) for name in ("fidelity.export", "fidelity.builder"))
    assert (verdict.result, export["result"], builder["result"]) == ("pass", "shown", "shown")
    assert export["value"] == 0
    assert "number by number" in export["note"]
    assert builder["value"] == check(verdict, "fidelity.kl")["value"]


def test_a_fault_behind_an_honest_checkpoint_is_the_builders(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    wrong, twin = wrong_engine(tokens, arm)
    verdict = judge(replace(wrong, checkpoint_twin=as_the_recipe(twin)), policy())
    assert "its checkpoint is; what came after it is not: builder" in verdict.summary


def test_a_fault_that_the_checkpoint_has_too_is_the_exports(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    wrong, twin = wrong_engine(tokens, arm)
    same = arm(noise=1.5, seed=2, targets={"twin": twin})
    verdict = judge(replace(wrong, checkpoint_twin=same), policy())
    assert "it is what its checkpoint says: the export is not its recipe" in verdict.summary


def test_faults_on_both_sides_are_both_said(tokens: TokenizedSuite, arm: Arm) -> None:
    wrong, twin = wrong_engine(tokens, arm)
    other = arm(noise=1.5, seed=9, targets={"twin": twin})
    verdict = judge(replace(wrong, checkpoint_twin=other), policy())
    assert "neither is its checkpoint" in verdict.summary


def test_the_side_of_a_gross_fault_is_named_after_three_prompts(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    wrong, twin = wrong_engine(tokens, arm)
    few = (0, 1, 2)
    engine = wrong.engine.only(few)
    found = replace(wrong, checkpoint_twin=as_the_recipe(twin), engine=engine, scored=few)

    verdict = judge(found, policy())

    builder = check(verdict, "fidelity.builder")
    assert (builder["lower"], builder["upper"]) == (None, None)
    assert builder["value"] > 0.5


def sided(export: float, builder: float, *, lost: int = 0) -> tuple[Check, ...]:
    return (
        Check("fidelity.export", "shown", "", value=export, positions=300 - lost),
        Check("fidelity.builder", "shown", "", value=builder, positions=300),
    )


def apart(limit: float) -> Check:
    return Check("fidelity.kl", "fail", "", value=0.4, limit=limit, positions=300)


@pytest.mark.parametrize(
    ("export", "builder", "said"),
    [
        (0.4, 0.06, "it is what its checkpoint says"),
        (0.06, 0.4, "its checkpoint is; what came after"),
        (0.4, 0.3, "neither"),
        (0.001, 0.0011, None),
    ],
)
def test_what_a_recipes_own_floor_explains_blames_no_side(
    export: float, builder: float, said: str | None
) -> None:
    told = blamed(sided(export, builder), apart(0.0875))
    assert told is None if said is None else said in (told or "")


def test_rows_that_were_left_out_blame_no_side() -> None:
    assert blamed(sided(0.0, 0.4), apart(0.0025)) is not None
    assert blamed(sided(0.0, 0.4, lost=3), apart(0.0025)) is None


def test_rows_of_the_checkpoint_twin_that_are_no_numbers_are_told(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    healthy = evidence(tokens, arm)
    assert healthy.twin is not None
    twin = arm(noise=FINE, seed=1, targets={"twin": healthy.twin})
    finite = np.ones_like(twin.finite)
    finite[3] = False

    verdict = judge(replace(healthy, checkpoint_twin=replace(twin, finite=finite)), policy())

    assert check(verdict, "fidelity.export")["note"] == "1 rows are not finite"


def test_a_checkpoint_twin_that_could_not_be_run_is_said_to_be_missing(
    tokens: TokenizedSuite, arm: Arm
) -> None:
    healthy = evidence(tokens, arm)
    verdict = judge(replace(healthy, no_checkpoint_twin="not scored: no such activation"), policy())
    export = check(verdict, "fidelity.export")
    assert (verdict.result, export["result"]) == ("pass", "not run")
    assert export["note"] == "not scored: no such activation"
