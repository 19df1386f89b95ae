"""What fits on a GPU, held against the rule that refuses what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enginekeeper.compatibility.check import check
from enginekeeper.compatibility.memory_plan import memory_plan
from tests.unit.compatibility.conftest import MakeCase

FITS, ESTIMATE = "model-fits-memory", "activations-fit-memory"


def test_the_longest_sequence_is_the_share_of_each_request(make_case: MakeCase) -> None:
    plan = memory_plan(*make_case("h100-sxm", "fp8"))

    assert plan is not None
    assert plan.longest_sequence == plan.engine_tokens // 8


@pytest.mark.parametrize("recipe", ["none", "fp8"])
@pytest.mark.parametrize("gpu", ["l4", "l40s", "h100-sxm"])
def test_the_largest_batch_fits_and_one_more_does_not(
    gpu: str, recipe: str, make_case: MakeCase
) -> None:
    variant, facts = make_case(gpu, recipe)
    plan = memory_plan(variant, facts)
    assert plan is not None
    if plan.largest_batch == 0:
        pytest.skip("not one request of this length fits: another test's business")

    fitting, beyond = (
        {
            hit.rule
            for hit in check(
                replace(variant, limits=replace(variant.limits, max_batch_size=batch)), facts
            )
        }
        for batch in (plan.largest_batch, plan.largest_batch + 1)
    )

    assert not {FITS, ESTIMATE} & fitting
    assert {FITS, ESTIMATE} & beyond


def test_weights_that_do_not_fit_leave_no_tokens(make_case: MakeCase) -> None:
    plan = memory_plan(*make_case({"gpu": "l4", "memory": "4GiB"}, "none"))

    assert plan is not None
    assert plan.rest < 0
    assert (plan.engine_tokens, plan.vllm_tokens, plan.largest_batch) == (0, 0, 0)


def test_the_cpu_has_no_such_plan(make_case: MakeCase) -> None:
    assert memory_plan(*make_case("cpu", "none")) is None
