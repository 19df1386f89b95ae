"""A stand-in for `nvidia-smi`: answers the two questions that steps ask.

Its settings may name another driver than that of the fleet: a node that was updated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from enginekeeper.building.simulated.fleet import DRIVER, simulated_gpus
from enginekeeper.documents import read_json_object

QUESTION = ["--query-gpu=index,uuid,name,compute_cap", "--format=csv,noheader"]
DRIVER_QUESTION = ["--query-gpu=driver_version", "--format=csv,noheader"]


def answer(arguments: list[str], driver: str = DRIVER) -> str:
    """Returns what nvidia-smi would print; raises SystemExit for another question."""
    if arguments == DRIVER_QUESTION:
        return f"{driver}\n" * len(simulated_gpus())
    if arguments != QUESTION:
        sys.exit(f"SIMULATED nvidia-smi answers only: {' '.join(QUESTION)}")
    rows = (
        f"{one.index}, {one.uuid}, {one.product.product}, {one.product.compute_capability}\n"
        for one in simulated_gpus()
    )
    return "".join(rows)


if __name__ == "__main__":
    settings, *asked = sys.argv[1:]
    told = read_json_object(Path(settings)) if Path(settings).is_file() else {}
    sys.stdout.write(answer(asked, str(told.get("driver", DRIVER))))
