"""A way to run the quantize step, on a small random Llama with a byte tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import StepRun, run_step
from tests.factories.tiny_llama import Weights, llama_config, random_weights, write_model

CALIBRATION = Path(__file__).parents[3] / "enginekeeper" / "data" / "calibration" / "mixed-v1.jsonl"


@pytest.fixture(scope="session")
def modelopt() -> Path:
    """The Python of the installed toolchain."""
    settings = Settings.from_environment()
    toolchain = find_toolchain("modelopt")
    installation = installation_of(toolchain, lock_of(toolchain, settings), settings)
    if not installation.ready:
        pytest.skip("the modelopt toolchain is not installed: enginekeeper toolchain sync modelopt")
    return installation.python


@pytest.fixture(scope="session")
def weights() -> Weights:
    return random_weights()


@pytest.fixture(scope="session")
def config() -> dict[str, Any]:
    return llama_config()


@pytest.fixture(scope="session")
def model(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], weights: Weights
) -> Path:
    return write_model(tmp_path_factory.mktemp("source") / "model", config, weights)


@pytest.fixture
def quantize(modelopt: Path, model: Path, tmp_path: Path) -> Callable[..., StepOutcome]:
    """Runs the step; keywords replace fields of the job, `calibration` is merged."""

    def run(name: str = "checkpoint", **changes: Any) -> StepOutcome:  # noqa: ANN401 - JSON
        calibration = {"path": str(CALIBRATION), "samples": 4, "max_tokens": 32, "seed": 7}
        job: dict[str, Any] = {
            "model": str(model),
            "output": str(tmp_path / name),
            "recipe": "w8a16",
            "kv_cache": "auto",
            "group_size": 64,
            "exclude_modules": [],
            "tensor_parallel": 1,
            "pipeline_parallel": 1,
            "dtype": "bfloat16",
            **_files(model, changes),
            **changes,
            "calibration": {**calibration, **changes.get("calibration", {})},
        }
        step = StepRun("modelopt", "quantize", job, tmp_path / f"{name}.run", 600)
        return run_step(step, python=modelopt)

    return run


def _files(model: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """An export in Hugging Face's format is told what else of the directory is the model."""
    if changes.get("format") != "huggingface":
        return {}
    files = [path for path in model.rglob("*") if path.is_file()]
    return {"files": sorted(path.relative_to(model).as_posix() for path in files)}
