"""What behaviour says of engines of other families: healthy ones, and ones with a wrong part.

    python benchmarks/family_fidelity.py WORK [FAMILY...]

WORK is that of `benchmarks/families.py`, whose `w8a16` exports are taken, repaired. Each is judged
by `ek validate`, audits and all, and then with one part wrong that Llama has not: a bias, a norm of
queries or keys, a window. Of these the audits are not asked (`--no-audit`; they name each): what is
printed is what fidelity alone says. The wrong part is in the checkpoint that the engine is built
from, so that the recipe twin, which is made from the source, has not got it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from families import exports

from enginekeeper.errors import InputError

sys.path.append(str(Path(__file__).parents[1]))
from tests.factories.checkpoints import Array, edit_config, edit_tensor

LAYER = "transformer.layers.3"
"""The last of four; in the windowed family one of the two that have a window."""

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


def _windows(*sizes: int) -> Callable[[Path], object]:
    defaults = {"max_attention_window": list(sizes)}
    return lambda checkpoint: edit_config(checkpoint, runtime_defaults=defaults)


WRONG = (
    Wrong("qwen2", "biases of q, k, v of a layer left out", _scaled("attention.qkv.bias", 0)),
    Wrong("qwen2", "the same, a tenth too large", _scaled("attention.qkv.bias", 1.1)),
    Wrong("qwen3", "a norm of queries a tenth too large",
          _scaled("attention.q_layernorm.weight", 1.1)),
    Wrong("qwen3", "a norm of keys halved", _scaled("attention.k_layernorm.weight", 0.5)),
    Wrong("qwen2-window", "no window", _windows(8192)),
    Wrong("qwen2-window", "a window in all layers", _windows(48)),
    Wrong("qwen2-window", "a window of half the size", _windows(8192, 8192, 24, 24)),
)  # fmt: skip


def healthy(work: Path, families: list[str]) -> Iterator[tuple[str, Path, Path]]:
    """Yields the family, the `w8a16` export and the source of what is asked for."""
    wanted = {one.family for one in WRONG}
    for checkpoint, source in exports(work, families or sorted(wanted)):
        if checkpoint.name == "w8a16" and checkpoint.parent.name in wanted:
            yield checkpoint.parent.name, checkpoint, source


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
    parser.add_argument("families", nargs="*")
    given = parser.parse_args()
    surprises = 0
    print("| family | engine | fidelity | KL, nats | failed | quality |\n|---|---|---|--:|---|---|")
    for family, checkpoint, source in healthy(given.work, given.families):
        document = validated(checkpoint, source)
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
