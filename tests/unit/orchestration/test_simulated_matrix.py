"""The plan of the simulated matrix is the table that was written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.orchestration.plan import Action
from enginekeeper.orchestration.planning import plan_variants
from enginekeeper.orchestration.stages import Source
from enginekeeper.specs.loader import load_variants
from registry.digests import digest_bytes
from tests.factories.benches import Site
from tests.factories.random_models import Shape
from tests.factories.simulated_matrix import (
    BUILT,
    MODELS,
    RANDOM,
    RECIPES,
    SMOLLM2,
    expected,
    write_matrix,
)

SMOLLM2_SHAPE = Shape("LlamaForCausalLM", "llama", hidden=576, inner=1536, heads=9, key_heads=3)
"""SmolLM2-135M's, as far as rules look at it."""


def test_the_table_has_every_cell_of_the_matrix() -> None:
    assert len(expected()) == 180 == len(MODELS) * 6 * len(RECIPES) * 2


@pytest.mark.parametrize("model", MODELS)
def test_every_cell_is_built_or_refused_by_the_rule_in_the_table(
    model: str, site: Site, tmp_path: Path
) -> None:
    place = tmp_path / model
    if model == SMOLLM2:
        SMOLLM2_SHAPE.write(place)
    variants = load_variants(write_matrix(tmp_path, model))
    assert model == SMOLLM2 or model in RANDOM

    planned = plan_variants(site.bench, variants, Source(place, digest_bytes(model.encode())))

    found = {
        str(one.variant.identifier): BUILT if one.action is Action.BUILD else one.rule
        for one in planned
    }
    assert found == {name: cell for name, cell in expected().items() if name.startswith(model)}
