"""A benchmark's step: the quantize step on many models and recipes in one process.

    PYTHON benchmarks/steps/export_families.py WORK [FAMILY...]

Runs in the modelopt toolchain, which takes seconds to import and a tenth of one for each export of
a small model. Takes `WORK/models/*`, writes `WORK/exports/FAMILY/RECIPE` (`FAMILY-f16` in float16),
and goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "enginekeeper" / "steps"))

import quantize
from _step import Refusal

TEXT = Path(quantize.__file__).parents[1] / "data" / "calibration" / "mixed-v1.jsonl"
RECIPES = (
    "none", "w8a16", "w8a8_sq", "w4a16", "w4a16_awq", "fp8", "fp8_per_channel_per_token", "nvfp4",
)  # fmt: skip
SPLIT = (
    ("llama3", "w4a16_awq", 4), ("llama3", "w8a8_sq", 2), ("llama3", "fp8", 4),
    ("qwen2", "w8a8_sq", 2), ("qwen2", "w4a16_awq", 2), ("qwen2", "none", 4),
    ("one-key-head", "w4a16_awq", 4), ("one-key-head", "nvfp4", 2), ("biases", "w8a8_sq", 2),
    ("biases", "w4a16", 4), ("qwen3", "fp8", 2),
)  # fmt: skip
CACHED = (
    ("qwen2", "fp8", "fp8"), ("qwen3", "w8a16", "int8"), ("mistral", "fp8", "fp8"),
    ("outliers", "nvfp4", "fp8"), ("qwen2", "w4a8_awq", "auto"), ("outliers", "w4a8_awq", "auto"),
)  # fmt: skip
HALVES = ("biases", "dead", "float32", "norms", "outliers", "qwen2")
"""Families that are exported in float16, too, by every recipe."""

GROUPS = {1: 64, 2: 32, 4: 16}
"""By ranks: whole groups of 576 columns on each, as ModelOpt wants them."""


def jobs(family: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the place of each export of a family, and what is asked of the step for it."""
    for recipe in RECIPES:
        yield f"{family}/{recipe}", {"recipe": recipe}
        if family in HALVES:
            yield f"{family}-f16/{recipe}", {"recipe": recipe, "dtype": "float16"}
    for name, recipe, ranks in SPLIT:
        if name == family:
            yield f"{name}/{recipe}_tp{ranks}", {"recipe": recipe, "tensor_parallel": ranks}
    for name, recipe, cache in CACHED:
        if name == family:
            yield f"{name}/{recipe}_kv_{cache}", {"recipe": recipe, "kv_cache": cache}


def job(model: Path, output: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Returns a whole job of the quantize step; Mistral's files are float16, and stay so."""
    return {
        "model": str(model),
        "output": str(output),
        "kv_cache": "auto",
        "exclude_modules": [],
        "tensor_parallel": 1,
        "pipeline_parallel": 1,
        "dtype": "float16" if model.name == "mistral" else "bfloat16",
        "group_size": GROUPS[asked.get("tensor_parallel", 1)],
        "calibration": {"path": str(TEXT), "samples": 8, "max_tokens": 64, "seed": 7},
        **asked,
    }


def main(work: Path, families: list[str]) -> int:
    """Exports what is not there; says what was refused."""
    refused = 0
    for model in sorted((work / "models").iterdir()):
        for name, asked in jobs(model.name) if not families or model.name in families else ():
            output, draft = work / "exports" / name, work / "drafts" / name
            if output.exists():
                continue
            shutil.rmtree(draft, ignore_errors=True)  # what an interrupted run left
            draft.parent.mkdir(parents=True, exist_ok=True)
            try:
                quantize.run(job(model, draft, asked))
            except Refusal as refusal:
                refused += 1
                print(f"{name}: {refusal}", file=sys.stderr)
                continue
            output.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(output)
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
