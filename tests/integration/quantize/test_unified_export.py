"""Checkpoints in Hugging Face's format by the real ModelOpt, and what the audits say of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.orchestration.tokenizer_probe import files_of
from enginekeeper.specs.recipes import KvCache, Recipe, RecipeName
from enginekeeper.toolchains.errors import StepRefusedError
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.validation.audits import audit
from enginekeeper.validation.tensor_files import TensorFile
from registry.manifests import Manifest

pytestmark = pytest.mark.toolchain

Quantize = Callable[..., StepOutcome]


@pytest.fixture
def ending(model: Path, tmp_path: Path) -> Path:
    """A model with more ends than its config names, a sampling, and a template for tools."""
    copy = Path(shutil.copytree(model, tmp_path / "ending"))
    ends = {"eos_token_id": [10, 11], "temperature": 0.6, "do_sample": False}
    (copy / "generation_config.json").write_text(json.dumps(ends))
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    return copy


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


@pytest.mark.parametrize("recipe", ["none", "fp8"])
def test_a_bundle_ends_texts_and_renders_them_as_its_model_does(
    recipe: str, quantize: Quantize, ending: Path, tmp_path: Path
) -> None:
    files = sorted(files_of(ending).keys() | {"model.safetensors"})

    quantize("one", model=str(ending), files=files, recipe=recipe, format="huggingface")

    ours, shipped = files_of(ending), files_of(tmp_path / "one")
    serving = ours.keys() - {"config.json"}
    assert {"generation_config.json", "additional_chat_templates/tool_use.jinja"} < serving
    assert {name: shipped.get(name) for name in serving} == {name: ours[name] for name in serving}


def test_an_export_that_is_not_told_the_models_files_is_refused(
    quantize: Quantize, tmp_path: Path
) -> None:
    with pytest.raises(StepRefusedError, match="files are not named"):
        quantize("one", recipe="fp8", format="huggingface", files=[])

    assert not (tmp_path / "one").exists()


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
