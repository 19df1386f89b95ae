"""A stand-in for `nvidia-smi`: answers the two questions that steps ask."""

from __future__ import annotations

import sys

from enginekeeper.building.simulated.fleet import DRIVER, simulated_gpus

QUESTION = ["--query-gpu=index,uuid,name,compute_cap", "--format=csv,noheader"]
DRIVER_QUESTION = ["--query-gpu=driver_version", "--format=csv,noheader"]


def answer(arguments: list[str]) -> str:
    """Returns what nvidia-smi would print; raises SystemExit for another question."""
    if arguments == DRIVER_QUESTION:
        return f"{DRIVER}\n" * len(simulated_gpus())
    if arguments != QUESTION:
        sys.exit(f"SIMULATED nvidia-smi answers only: {' '.join(QUESTION)}")
    rows = (
        f"{one.index}, {one.uuid}, {one.product.product}, {one.product.compute_capability}\n"
        for one in simulated_gpus()
    )
    return "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(answer(sys.argv[1:]))
