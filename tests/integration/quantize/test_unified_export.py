"""Checkpoints in Hugging Face's format by the real ModelOpt, and what the audits say of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.specs.recipes import KvCache, Recipe, RecipeName
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.validation.audits import audit
from enginekeeper.validation.tensor_files import TensorFile
from registry.manifests import Manifest

pytestmark = pytest.mark.toolchain

Quantize = Callable[..., StepOutcome]


@pytest.mark.parametrize(
    ("recipe", "kv_cache"),
    [
        ("fp8", "fp8"),
        ("fp8_per_channel_per_token", "auto"),
        ("nvfp4", "auto"),
        ("w4a16_awq", "auto"),
    ],
)
def test_an_export_is_the_same_bytes_again_and_clean_beside_its_source(
    recipe: str, kv_cache: str, quantize: Quantize, model: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        quantize(name, recipe=recipe, kv_cache=kv_cache, format="huggingface")

    one, two = (Manifest.of_directory(tmp_path / name, "checkpoint") for name in ("one", "two"))
    assert one.digest == two.digest
    assert {"hf_quant_config.json", "tokenizer.json"} <= {file.path for file in one.files}
    asked = Recipe(
        recipe=RecipeName(recipe),
        kv_cache=KvCache(kv_cache),
        group_size=64 if recipe == "w4a16_awq" else None,
    )
    reports = audit(model, tmp_path / "one", asked)
    assert [(report.check, report.findings) for report in reports] == [
        ("config", ()), ("weights", ()), ("recipe", ()),
    ]  # fmt: skip


def test_what_is_multiplied_at_once_has_one_scale(quantize: Quantize, tmp_path: Path) -> None:
    quantize("one", recipe="fp8", format="huggingface")

    tensors = TensorFile.open(tmp_path / "one" / "model.safetensors")
    for group in (("self_attn", "qkv"), ("mlp", ("gate", "up"))):
        names = [f"model.layers.0.{group[0]}.{part}_proj.weight_scale" for part in group[1]]
        scales = [tensors[name].read() for name in names]
        assert all(np.array_equal(one, scales[0]) for one in scales)


def test_a_recipe_that_quantizes_nothing_leaves_the_source_as_it_is(
    quantize: Quantize, model: Path, tmp_path: Path
) -> None:
    quantize("one", recipe="none", format="huggingface")

    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "one" / name).read_bytes() == (model / name).read_bytes()
    asked = Recipe(recipe=RecipeName.NONE)
    assert all(not one.findings for one in audit(model, tmp_path / "one", asked))
