"""What behaviour says of engines of other families: healthy ones, and ones with a wrong part.

    python benchmarks/family_fidelity.py WORK [FAMILY...]

Lays the bundled model out as Qwen2 (biases), Qwen3 (norms of queries and keys) and Mistral (a
window), as `benchmarks/families.py` does, and has each exported in `w8a16` and repaired. Each is
judged by `ek validate`, audits and all, and then with one part wrong that Llama has not: a bias, a
norm of queries or keys, a window. Of these the audits are not asked (`--no-audit`; they name each):
what is printed is what fidelity alone says. The wrong part is in the checkpoint that the engine is
built from; the recipe twin, made from the source, has not got it. Quality is printed and not
judged: four layers of thirty are no language model. It would end the scoring of a healthy engine,
so that there the whole suite is scored.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from families import CUT, donor

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.runner import STEPS, StepRun, run_step
from enginekeeper.toolchains.sync import ensure
from enginekeeper.validation.repair import apply_repairs, propose_repairs

sys.path.append(str(Path(__file__).parents[1]))
from tests.factories.checkpoints import Array, edit_config, edit_tensor
from tests.factories.families import FAMILIES, lay_out

SHAPES = {
    "qwen2": replace(FAMILIES["qwen2"], heads=9, kv_heads=3),
    "qwen3": FAMILIES["qwen3"],
    "mistral": FAMILIES["mistral"],
}
"""By vLLM, which makes the reference, a Qwen2's heads are together as wide as its layers, as in all
that are published; one with windows in some layers it refuses."""

LAYER = "transformer.layers.3"
"""The last of four."""

TEXT = STEPS.parent / "data" / "calibration" / "mixed-v1.jsonl"

NORMAL_EXITS = (0, 5, 6)
"""Of `ek validate`: pass, fail, inconclusive."""


@dataclass(frozen=True)
class Wrong:
    """One wrong part."""

    family: str
    name: str
    edit: Callable[[Path], object]


def _scaled(tensor: str, factor: float) -> Callable[[Path], object]:
    def change(values: Array) -> Array:
        return np.asarray(values.astype(np.float32) * np.float32(factor))

    return lambda checkpoint: edit_tensor(checkpoint, f"{LAYER}.{tensor}", change)


def _window(size: int) -> Callable[[Path], object]:
    defaults = {"max_attention_window": [size]}
    return lambda checkpoint: edit_config(checkpoint, runtime_defaults=defaults)


WRONG = (
    Wrong("qwen2", "biases of q, k, v of a layer left out", _scaled("attention.qkv.bias", 0)),
    Wrong("mistral", "no window", _window(8192)),
    Wrong("mistral", "a window of half the size", _window(24)),
    Wrong("qwen3", "a norm of queries doubled", _scaled("attention.q_layernorm.weight", 2)),
    Wrong("qwen3", "a norm of keys halved", _scaled("attention.k_layernorm.weight", 0.5)),
)  # fmt: skip


def model(work: Path, family: str) -> Path:
    """Lays a model out, if that was not done yet."""
    whole, draft = work / "models" / family, work / "drafts" / family
    if not whole.exists():
        shutil.rmtree(draft, ignore_errors=True)  # what an interrupted run left
        lay_out(SHAPES[family], donor(), CUT, draft)
        whole.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(whole)
    return whole


def export(work: Path, family: str) -> Path:
    """Returns a model's checkpoint as `ek build` would take it, and makes it if need be."""
    source, made = model(work, family), work / "exports" / family
    if not made.exists():
        job = {
            "model": str(source),
            "output": str(work / "drafts" / "export"),
            "recipe": "w8a16",
            "kv_cache": "auto",
            "group_size": 64,
            "exclude_modules": [],
            "tensor_parallel": 1,
            "pipeline_parallel": 1,
            "dtype": "float16" if family == "mistral" else "bfloat16",  # as its files
            "calibration": {"path": str(TEXT), "samples": 8, "max_tokens": 64, "seed": 7},
        }
        shutil.rmtree(job["output"], ignore_errors=True)
        step = StepRun("modelopt", "quantize", job, work / "runs" / family, 3600)
        run_step(step, python=ensure("modelopt", Settings.from_environment()))
        made.parent.mkdir(parents=True, exist_ok=True)
        Path(job["output"]).rename(made)
    repaired = work / "repaired" / family
    if not repaired.exists():
        repairs = propose_repairs(read_json_object(source / "config.json"), made)
        if not repairs:
            return made
        apply_repairs(made, repaired, repairs)
    return repaired


def validated(checkpoint: Path, source: Path, *options: str) -> dict[str, Any]:
    """Builds and judges a checkpoint; returns the verdict."""
    arms = ["--checkpoint", str(checkpoint), "--model", str(source)]
    command = [sys.executable, "-m", "enginekeeper", "validate", *arms, "--json", *options]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode not in NORMAL_EXITS:
        raise InputError(
            "the checkpoint was not judged", where=str(checkpoint), actual=done.returncode
        )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def row(family: str, name: str, document: dict[str, Any]) -> str:
    """Returns what fidelity says as a row of a table."""
    checks = {one["check"]: one for one in document["checks"]}
    failed = [n for n, one in checks.items() if one["result"] == "fail" and "fidelity" in n]
    kl = checks["fidelity.kl"]["value"]
    cells = (
        family,
        name,
        document["fidelity"]["result"],
        "" if kl is None else f"{kl:.2g}",
        ", ".join(failed),
        document["quality"]["result"],
    )
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Prints a table; 1 if a healthy engine fails fidelity, or one with a wrong part passes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("families", nargs="*", help=", ".join(SHAPES))
    given = parser.parse_args()
    unknown = sorted(set(given.families) - SHAPES.keys())
    if unknown:
        raise InputError("no such family here", actual=unknown[0], expected=", ".join(SHAPES))
    surprises = 0
    print("| family | engine | fidelity | KL, nats | failed | quality |\n|---|---|---|--:|---|---|")
    for family in given.families or SHAPES:
        source, checkpoint = model(given.work, family), export(given.work, family)
        document = validated(checkpoint, source, "--whole-suite")
        surprises += document["fidelity"]["result"] != "pass"
        print(row(family, "healthy", document), flush=True)
        for wrong in (one for one in WRONG if one.family == family):
            draft = given.work / "wrong" / family
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(checkpoint, draft)
            wrong.edit(draft)
            document = validated(draft, source, "--no-audit")
            surprises += document["fidelity"]["result"] != "fail"
            print(row(family, wrong.name, document), flush=True)
    return int(surprises > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(4)
