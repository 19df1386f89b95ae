"""The simulated matrix, whole: every cell built or refused, validated, published and queried.

    python benchmarks/simulated_matrix.py --directory DIR [--model NAME]... [--only GLOB]...

Three models (SmolLM2-135M; two of random weights, which show structure and no quality) x six GPUs x
five recipes x tensor parallel 1 and 2, by doubles of NVIDIA's programs. ModelOpt, vLLM and the CPU
executor are the real ones and have to be installed (`ek toolchain sync`). DIR keeps the registry,
so that an interrupted run goes on; the cache is that of the environment. Prints a row for each
model, with the figures of benchmarks/README.md. Exit 1 if a cell is not what
tests/assets/simulated_matrix.json says, if a built one is judged otherwise or is not its recipe, or
if a second run does anything or takes 5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.factories.simulated_matrix import (
    BUILT,
    MODELS,
    expected,
    expected_result,
    write_matrix,
)

ROOT = Path(__file__).parents[1]
_PATIENCE = 5.0
"""Seconds that a second run of one model's spec may take."""


@dataclass(frozen=True)
class Said:
    """What a command answered, and how long it took."""

    value: Any
    seconds: float
    progress: str


def main() -> int:
    """Runs the matrix, or a part of it."""
    asked = _arguments()
    folder = asked.directory.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wrong = []
    for model in asked.model or MODELS:
        spec = write_matrix(folder, model)
        only = [word for pattern in asked.only for word in ("--only", pattern)]
        first = _ek(folder, "build", str(spec), *only)
        planned = _ek(folder, "plan", str(spec), *only)
        wrong += _differences(model, first.value, asked.only)
        wrong += _other_rules(planned.value)
        again = _ek(folder, "build", str(spec), *only)
        wrong += _second_run(model, again)
        query = _ek(folder, "engine", "list", "--model", model)
        _report(model, first, again, query)
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--only", action="append", default=[])
    return parser.parse_args()


def _ek(folder: Path, *words: str) -> Said:
    environment = {
        **os.environ,
        "ENGINEKEEPER_HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
    }
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "enginekeeper", *words, "--json"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not done.stdout:
        sys.exit(f"{' '.join(words)} answered nothing:\n{done.stderr}")
    return Said(json.loads(done.stdout), time.monotonic() - started, done.stderr)


def _differences(model: str, outcomes: list[dict[str, Any]], only: list[str]) -> list[str]:
    """Returns what is not as the table says: another ending, another verdict, or not its recipe."""
    wanted = {
        name: cell
        for name, cell in expected().items()
        if name.startswith(f"{model}.")
        and (not only or any(fnmatchcase(name, pattern) for pattern in only))
    }
    found = {one["variant"]: one for one in outcomes}
    wrong = [f"{name}: not there" for name in wanted.keys() ^ found.keys()]
    for name in wanted.keys() & found.keys():
        one, cell = found[name], wanted[name]
        if not one["simulated"]:
            wrong.append(f"{name}: not marked as simulated")
        as_judged = (one["fidelity"], one["result"]) == ("pass", expected_result(name))
        if cell == BUILT and not as_judged:
            wrong.append(f"{name}: {one['ending']} {one['result']}: {one['summary']}")
        if cell != BUILT and one["ending"] != "refused":
            wrong.append(f"{name}: {one['ending']}, expected to be refused by {cell}")
    return wrong


def _other_rules(planned: list[dict[str, Any]]) -> list[str]:
    """Returns what is refused by another rule than the table's."""
    table = expected()
    return [
        f"{one['variant']}: refused by {one['rule']}, expected {table[one['variant']]}"
        for one in planned
        if one["action"] == "refuse" and one["rule"] != table[one["variant"]]
    ]


def _second_run(model: str, again: Said) -> list[str]:
    wrong = [
        f"{one['variant']}: {one['ending']} in the second run"
        for one in again.value
        if one["ending"] not in ("reused", "refused")
    ]
    if again.seconds >= _PATIENCE:
        wrong.append(f"{model}: the second run took {again.seconds:.1f} s")
    if "Prefect server" in again.progress:
        wrong.append(f"{model}: the second run started Prefect")
    return wrong


def _report(model: str, first: Said, again: Said, query: Said) -> None:
    endings = Counter(one["ending"] for one in first.value)
    stages: Counter[str] = Counter()
    for one in first.value:
        stages.update(one["seconds"])
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(stages.items()))
    print(
        f"| SIMULATED {model} | {len(first.value)} | {dict(endings)} "
        f"| {first.seconds:.0f} s ({spent}) | {again.seconds:.1f} s "
        f"| {len(query.value)} engines in {query.seconds:.1f} s |",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
