"""What the builder asks of a refitted engine; the tool is the double, called without its step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.simulated.refit import main as refit
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.errors import InputError
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.results import StepOutcome

BUILDER = TensorrtLlmBuilder(
    releases()["tensorrt-llm-1.2.1"], gpu_products()["h100-sxm"], "double", simulated=True
)


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _refitted(
    checkpoint: Path, change: Callable[[dict[str, Any]], object] = lambda _config: None
) -> None:
    """Refits, and changes what the tool wrote."""

    def run(_toolchain: str, _step: str, job: Mapping[str, Any]) -> StepOutcome:
        words = ("engine", "checkpoint", "output")
        refit("1.2.1", [f"--{word}_dir={job[word]}" for word in words])
        _edit(Path(job["output"]) / "config.json", change)
        return StepOutcome({}, {}, 1.0, Path("log"))

    BUILDER.refit(Path("stripped"), checkpoint, Path("whole"), run)


def test_an_engine_built_for_logits_of_another_format_is_refitted(checkpoint: Path) -> None:
    # as the release writes it where it was asked for --logits_dtype=float32
    config = Path("stripped/config.json")
    _edit(config, lambda it: it["pretrained_config"].update(logits_dtype="float32"))

    _refitted(checkpoint)

    assert Path("whole/rank1.engine").is_file()


@pytest.mark.parametrize("section", ["pretrained_config", "build_config"])
def test_a_refitted_engine_that_says_anything_else_is_a_fault(
    checkpoint: Path, section: str
) -> None:
    with pytest.raises(InputError, match="is not that of the engine without weights"):
        _refitted(checkpoint, lambda it: it[section].update(max_batch_size=1))


def test_an_engine_of_another_model_is_a_fault_that_names_the_field(checkpoint: Path) -> None:
    _edit(checkpoint / "config.json", lambda it: it.update(rotary_base=1.0))

    with pytest.raises(InputError, match="rotary_base"):
        _refitted(checkpoint)
