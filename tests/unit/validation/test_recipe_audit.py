"""The recipe audit: a checkpoint may be right in itself, and not what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.errors import InputError
from enginekeeper.specs.recipes import KvCache, Recipe, RecipeName
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.recipe_audit import audit_recipe, recipe_of
from enginekeeper.validation.source_model import SourceModel
from tests.factories import checkpoints

GEOMETRY = Geometry.of(SourceModel.open(checkpoints.SOURCE).config)

ASKED = {
    "none": Recipe(recipe=RecipeName.NONE),
    "w8a16": Recipe(recipe=RecipeName.W8A16),
    "fp8": Recipe(recipe=RecipeName.FP8, kv_cache=KvCache.FP8),
    "fp8_per_channel_per_token": Recipe(recipe=RecipeName.FP8_PER_CHANNEL_PER_TOKEN),
    "w4a16": Recipe(recipe=RecipeName.W4A16, group_size=32),
    "w8a8_sq": Recipe(recipe=RecipeName.W8A8_SQ, kv_cache=KvCache.INT8),
    "w4a16_awq": Recipe(recipe=RecipeName.W4A16_AWQ, group_size=32),
    "w4a8_awq": Recipe(recipe=RecipeName.W4A8_AWQ, group_size=32),
    "nvfp4": Recipe(recipe=RecipeName.NVFP4),
}
"""What each of ModelOpt's exports was asked for."""


def findings(checkpoint: Path, recipe: Recipe) -> tuple[Finding, ...]:
    return audit_recipe(Checkpoint.open(checkpoint), GEOMETRY, recipe).findings


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("made", ASKED)
def test_only_the_recipe_that_was_asked_for_passes(asked: str, made: str, tmp_path: Path) -> None:
    found = findings(checkpoints.exported(made, tmp_path), ASKED[asked])
    assert (found == ()) is (asked == made)


def test_an_unrepaired_promise_is_not_plain_int4() -> None:
    (found,) = findings(checkpoints.EXPORTS / "w4a16", ASKED["w4a16"])
    assert (found.where, found.actual, found.expected, found.taxonomy) == (
        "quantization.pre_quant_scale",
        "true",
        "false",
        "T9",
    )


@pytest.mark.parametrize(
    ("changes", "actual", "expected", "taxonomy"),
    [
        ({"quant_algo": "W4A8_AWQ"}, "W4A8_AWQ", "W4A16_AWQ", "T8"),
        ({"quant_algo": None}, "null", "W4A16_AWQ", "T8"),
        ({"kv_cache_quant_algo": "FP8"}, "FP8", "null", "T11"),
        ({"group_size": 64}, "64", "32", "T3"),
        ({"group_size": None}, "128", "32", "T3"),
        ({"pre_quant_scale": False}, "false", "true", "T9"),
    ],
)
def test_each_field_is_named_with_both_values(
    changes: dict[str, object], actual: str, expected: str, taxonomy: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("w4a16_awq", tmp_path)
    checkpoints.edit_quantization(checkpoint, **changes)
    (found,) = findings(checkpoint, ASKED["w4a16_awq"])
    (field,) = changes
    assert (found.where, found.actual, found.expected) == (
        f"quantization.{field}",
        actual,
        expected,
    )
    assert found.taxonomy == taxonomy
    assert found.message.startswith(f"{field}: {actual}; the recipe asked for, w4a16_awq, has ")


@pytest.mark.parametrize(
    ("patterns", "listed"),
    [
        (("*.self_attn.*",), ["lm_head", "*.attention.*"]),
        (("*.0.mlp*", "*.1.mlp*"), ["lm_head", "transformer.layers.0.mlp.*", "*.1.mlp*"]),
        (("model.layers.1.mlp.down_proj",), ["lm_head", "transformer.layers.1.mlp.proj"]),
    ],
)
def test_exclusions_are_compared_by_what_they_leave_out(
    patterns: tuple[str, ...], listed: list[str], tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_quantization(checkpoint, exclude_modules=listed)
    assert findings(checkpoint, Recipe(recipe=RecipeName.W8A16, exclude_modules=patterns)) == ()
    (found,) = findings(checkpoint, ASKED["w8a16"])
    assert (found.where, found.actual, found.taxonomy) == (
        "quantization.exclude_modules",
        listed,
        "T8",
    )
    assert found.message.startswith("exclude_modules leaves transformer.layers.")


def test_what_was_to_be_left_out_and_is_quantized_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    asked = Recipe(recipe=RecipeName.W8A16, exclude_modules=("*.down_proj",))
    checkpoints.edit_quantization(checkpoint, exclude_modules=["transformer.layers.0.mlp.proj"])
    (found,) = findings(checkpoint, asked)
    assert "quantizes lm_head, transformer.layers.1.mlp.proj" in found.message
    assert found.expected == ["lm_head", *(f"transformer.layers.{n}.mlp.proj" for n in (0, 1))]


@pytest.mark.parametrize("made", ASKED)
def test_a_checkpoint_says_which_recipe_it_is(made: str, tmp_path: Path) -> None:
    found = recipe_of(Checkpoint.open(checkpoints.exported(made, tmp_path)), GEOMETRY)
    asked = ASKED[made]
    assert (found.recipe, found.kv_cache, found.group) == (
        asked.recipe,
        asked.kv_cache,
        asked.group,
    )


def test_what_a_checkpoint_leaves_out_is_said_in_the_source_models_names(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    listed = ["lm_head", "*.0.attention.qkv", "*.1.mlp.proj"]
    checkpoints.edit_quantization(checkpoint, exclude_modules=listed)
    found = recipe_of(Checkpoint.open(checkpoint), GEOMETRY)
    attention = [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]
    assert found.exclude_modules == (*attention, "model.layers.1.mlp.down_proj")
    assert findings(checkpoint, found) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [("quant_algo", "W3A5"), ("kv_cache_quant_algo", "NVFP4"), ("group_size", 48)],
)
def test_a_field_that_no_recipe_has_is_refused(field: str, value: object, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16_awq", tmp_path)
    checkpoints.edit_quantization(checkpoint, **{field: value})
    with pytest.raises(InputError, match=rf"config\.json: quantization\.{field} is not one"):
        recipe_of(Checkpoint.open(checkpoint), GEOMETRY)
