"""Bad input is an answer with a kind and a place, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginekeeper.toolchains.errors import StepRefusedError
from enginekeeper.toolchains.results import StepOutcome
from tests.factories.tiny_llama import Weights, write_model

pytestmark = pytest.mark.toolchain

Build = Callable[..., str]
Quantize = Callable[..., StepOutcome]


@pytest.fixture
def broken(tmp_path: Path, config: dict[str, Any], weights: Weights) -> Build:
    """Writes the source with some of its config or tensors replaced; None leaves one out."""

    def build(config_changes: dict[str, Any] | None = None, **tensors: Any) -> str:  # noqa: ANN401
        changed = {**weights, **{k.replace("__", "."): v for k, v in tensors.items()}}
        present = {name: value for name, value in changed.items() if value is not None}
        return str(write_model(tmp_path / "model", {**config, **(config_changes or {})}, present))

    return build


def refusal(quantize: Quantize, **job: Any) -> StepRefusedError:  # noqa: ANN401 - JSON
    with pytest.raises(StepRefusedError) as caught:
        quantize(**job)
    return caught.value


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        ({"recipe": "w3a5"}, "unknown-recipe"),
        ({"kv_cache": "int2"}, "unknown-kv-cache"),
        ({"dtype": "float32"}, "unknown-dtype"),
        ({"tensor_parallel": 3}, "heads-not-divisible"),
        ({"recipe": "w4a16", "group_size": 96}, "group-size"),
        ({"recipe": "w4a16", "group_size": 128, "tensor_parallel": 2}, "group-size"),
        ({"exclude_modules": ["*.no_such_linear"]}, "unmatched-exclusion"),
        ({"exclude_modules": ["*.q_proj"]}, "partial-fusion"),
        ({"recipe": "fp8", "calibration": {"samples": 1000}}, "calibration-too-small"),
        ({"recipe": "fp8", "calibration": {"path": "/no/such/text"}}, "calibration-missing"),
        ({"model": "/no/such/model"}, "model-incomplete"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_that_cannot_be_done_is_refused(
    job: dict[str, Any], kind: str, quantize: Quantize, tmp_path: Path
) -> None:
    assert refusal(quantize, **job).kind == kind
    assert not (tmp_path / "checkpoint").exists()


def test_weights_that_are_not_numbers_are_named(
    broken: Build, quantize: Quantize, weights: Weights
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    poisoned = np.array(weights[name])
    poisoned[3, 5] = np.nan
    error = refusal(quantize, model=broken(**{name.replace(".", "__"): poisoned}))
    assert error.kind == "non-finite-weights"
    assert name in str(error)


def test_another_architecture_is_refused(broken: Build, quantize: Quantize) -> None:
    model = broken({"architectures": ["GPT2LMHeadModel"]})
    assert refusal(quantize, model=model).kind == "unsupported-architecture"


def test_a_missing_tensor_is_not_drawn_at_random(broken: Build, quantize: Quantize) -> None:
    error = refusal(quantize, model=broken(lm_head__weight=None))
    assert error.kind == "model-incomplete"
    assert "lm_head.weight" in str(error)


def test_a_shard_cut_short_is_refused(broken: Build, quantize: Quantize) -> None:
    model = broken()
    path = Path(model) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(quantize, model=model).kind == "model-malformed"


def test_a_missing_tokenizer_is_refused(broken: Build, quantize: Quantize) -> None:
    model = broken()
    (Path(model) / "tokenizer.json").unlink()
    assert refusal(quantize, model=model, recipe="fp8").kind == "tokenizer-unusable"


@pytest.mark.parametrize("text", ["{}", '{"version": "1.0", "model": {"type": "Other"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(
    text: str, broken: Build, quantize: Quantize
) -> None:
    model = broken()
    (Path(model) / "tokenizer.json").write_text(text)
    assert refusal(quantize, model=model, recipe="fp8").kind == "tokenizer-unusable"


def test_a_tokenizer_that_does_not_fit_is_refused(
    broken: Build, quantize: Quantize, weights: Weights
) -> None:
    small = {name: weights[name][:100] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    model = broken({"vocab_size": 100}, **{k.replace(".", "__"): v for k, v in small.items()})
    assert refusal(quantize, model=model, recipe="fp8").kind == "tokenizer-mismatch"


@pytest.mark.parametrize("line", ["not json", '{"no": "text"}', '{"text": " "}', '["text"]'])
def test_a_broken_calibration_line_is_named(line: str, quantize: Quantize, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n\n" + line + "\n")
    error = refusal(quantize, recipe="fp8", calibration={"path": str(path)})
    assert error.kind == "calibration-malformed"
    assert f"{path}:3" in str(error)


def test_an_output_that_is_not_empty_is_left_alone(quantize: Quantize, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    assert refusal(quantize).kind == "output-exists"
    assert (tmp_path / "checkpoint" / "config.json").read_text() == "{}"
