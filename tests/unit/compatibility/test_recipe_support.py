"""What is shown of a release's recipes is what `check` decides about each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from enginekeeper.compatibility.check import check
from enginekeeper.compatibility.formats import ROWS
from enginekeeper.compatibility.recipe_support import recipes_by_capability
from enginekeeper.compatibility.rules import Severity
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.specs.recipes import RecipeName

FORMAT_ROWS = {row.identifier for row in ROWS}
BY_CAPABILITY = {str(one.compute_capability): name for name, one in gpu_products().items()}


@pytest.mark.parametrize("recipe", RecipeName)
@pytest.mark.parametrize("capability", sorted(BY_CAPABILITY))
def test_a_recipe_is_shown_exactly_where_no_format_rule_refuses_it(
    capability: str, recipe: RecipeName, make_case: Callable[..., Any]
) -> None:
    profile = toolchain_profiles()["tensorrt-llm-1.2.1"]
    case = make_case(BY_CAPABILITY[capability], str(recipe), limits={"max_batch_size": 1})
    refused = {hit.rule for hit in check(*case) if hit.severity is Severity.REFUSE} & FORMAT_ROWS

    assert (str(recipe) in recipes_by_capability(profile)[capability]) is (not refused)
