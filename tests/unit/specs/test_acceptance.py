from __future__ import annotations

from dataclasses import fields

import pytest

from enginekeeper.specs.acceptance import (
    Acceptance,
    AcceptanceOverride,
    acceptance_of,
    recipe_defaults,
)
from enginekeeper.specs.recipes import KvCache, RecipeName


def test_every_recipe_and_every_rounded_cache_has_a_default_with_its_reason() -> None:
    table = recipe_defaults()

    assert set(table.recipes) == set(RecipeName)
    assert set(table.kv_caches) == set(KvCache) - {KvCache.AUTO}
    assert all(
        one.why and one.source for one in (*table.recipes.values(), *table.kv_caches.values())
    )


@pytest.mark.parametrize("recipe", RecipeName)
def test_what_is_nearly_lossless_may_cost_less_and_nothing_more_than_the_default(
    recipe: RecipeName,
) -> None:
    limits, origins = acceptance_of(recipe, KvCache.AUTO)

    assert limits.max_quality_kl <= Acceptance().max_quality_kl
    assert limits.max_fidelity_kl == Acceptance().max_fidelity_kl
    assert (limits.max_quality_kl < 0.05) is (recipe in {RecipeName.NONE, RecipeName.W8A16})
    assert origins["max_quality_kl"] == f"default of {recipe}"
    assert (origins["max_fidelity_kl"], origins["confidence"]) == ("default", "default")


def test_a_rounded_cache_may_cost_what_it_costs_and_no_limit_gets_tighter_by_it() -> None:
    limits, origins = acceptance_of("w8a16", "fp8")
    wide, _ = acceptance_of("fp8", "fp8")

    assert (limits.max_quality_kl, limits.min_top1_agreement) == (0.05, 0.90)
    assert origins["max_quality_kl"] == "default of a cache in fp8"
    assert wide.max_quality_kl == 0.10


def test_what_is_set_goes_before_defaults_and_what_is_set_for_the_recipe_before_that() -> None:
    of_spec = AcceptanceOverride(max_quality_kl=0.3, confidence=0.95)
    of_recipe = AcceptanceOverride(max_quality_kl=0.7)

    limits, origins = acceptance_of("w8a16", "auto", of_spec, of_recipe)

    assert (limits.max_quality_kl, limits.confidence) == (0.7, 0.95)
    assert limits.max_perplexity_ratio == 1.03
    assert dict(origins) == {
        "max_fidelity_kl": "default",
        "max_quality_kl": "spec, for this recipe",
        "max_perplexity_ratio": "default of w8a16",
        "min_top1_agreement": "default of w8a16",
        "confidence": "spec",
    }
    assert set(origins) == {field.name for field in fields(Acceptance)}


def test_what_healthy_engines_of_the_demo_cost_is_inside_with_its_bound() -> None:
    """Upper bounds of KL and perplexity and lower ones of agreement, SmolLM2-135M on `smoke`."""
    limits, _ = acceptance_of("w8a16", "auto")

    assert limits.max_quality_kl > 0.00617508
    assert limits.max_perplexity_ratio > 1.01123
    assert limits.min_top1_agreement < 0.953081
