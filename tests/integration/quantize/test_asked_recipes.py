"""What the real ModelOpt writes into the `quantization` block is what the recipe audit expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.specs.recipes import GROUPED, KvCache, Recipe, RecipeName
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.validation.audits import audit
from enginekeeper.validation.repair import apply_repairs, propose_repairs

pytestmark = pytest.mark.toolchain

SOME = ("*.self_attn.*", "*.0.mlp*")


def asked(name: RecipeName, **more: Any) -> Recipe:  # noqa: ANN401 - fields of a recipe
    return Recipe(recipe=name, group_size=64 if name in GROUPED else None, **more)


@pytest.mark.parametrize(
    "recipe",
    [
        *(asked(name) for name in RecipeName),
        asked(RecipeName.NONE, kv_cache=KvCache.FP8),
        asked(RecipeName.W8A16, kv_cache=KvCache.INT8),
        asked(RecipeName.FP8, kv_cache=KvCache.FP8, exclude_modules=SOME),
        asked(RecipeName.W4A16, exclude_modules=("*.down_proj",)),
    ],
    ids=lambda recipe: f"{recipe.part}{'-some' if recipe.exclude_modules else ''}",
)
def test_a_repaired_export_is_of_the_recipe_that_was_asked_for(
    recipe: Recipe,
    quantize: Callable[..., StepOutcome],
    model: Path,
    config: dict[str, Any],
    tmp_path: Path,
) -> None:
    quantize(
        recipe=str(recipe.recipe),
        kv_cache=str(recipe.kv_cache),
        group_size=recipe.group or 128,
        exclude_modules=list(recipe.exclude_modules),
    )
    exported, repaired = tmp_path / "checkpoint", tmp_path / "repaired"
    apply_repairs(exported, repaired, propose_repairs(config, exported))
    findings = [report.findings for report in audit(model, repaired, recipe)]
    assert findings == [(), (), ()]
