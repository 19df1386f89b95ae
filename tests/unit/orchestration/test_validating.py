"""A checkpoint from elsewhere: judged as what it says it is, all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.errors import InputError
from enginekeeper.orchestration import validating
from enginekeeper.orchestration.validating import ValidationRequest
from enginekeeper.specs.recipes import KvCache
from enginekeeper.specs.variants import Variant
from tests.factories import checkpoints


def variant(recipe: str, directory: Path, **quantization: object) -> Variant:
    checkpoint = checkpoints.exported(recipe, directory)
    checkpoints.edit_quantization(checkpoint, **quantization)
    return validating._variant(ValidationRequest(checkpoint, checkpoints.SOURCE))


@pytest.mark.parametrize(
    ("algorithm", "kept"), [("FP8", KvCache.FP8), ("INT8", KvCache.INT8), (None, KvCache.AUTO)]
)
def test_the_cache_is_kept_in_what_the_checkpoint_says(
    algorithm: str | None, kept: KvCache, tmp_path: Path
) -> None:
    found = variant("w8a16", tmp_path, kv_cache_quant_algo=algorithm)
    assert found.recipe.kv_cache is kept
    assert found.recipe.rounds_activations is (algorithm is not None)


def test_a_cache_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kv_cache_quant_algo") as caught:
        variant("w8a16", tmp_path, kv_cache_quant_algo="NVFP4")
    assert caught.value.expected == "null, FP8, INT8"


def test_groups_and_exclusions_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    found = variant("w4a16", tmp_path, exclude_modules=["lm_head", "*.mlp.proj"])
    down = tuple(f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1))
    assert (str(found.recipe.recipe), found.recipe.group) == ("w4a16", 32)
    assert found.recipe.exclude_modules == down


def test_requests_are_no_longer_than_the_model(tmp_path: Path) -> None:
    limits = variant("none", tmp_path).limits
    assert (limits.max_input_len, limits.max_seq_len) == (256, 256)


def test_the_deep_suite_is_validated_at_the_length_it_needs(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(checkpoint, max_position_embeddings=32_768)

    deep = validating._variant(ValidationRequest(checkpoint, checkpoints.SOURCE, suite="deep"))
    smoke = validating._variant(ValidationRequest(checkpoint, checkpoints.SOURCE))

    assert (deep.limits.max_input_len, deep.limits.max_seq_len) == (8192, 16_384)
    assert (smoke.limits.max_input_len, smoke.limits.max_seq_len) == (512, 1024)
