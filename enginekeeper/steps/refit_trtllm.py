"""The step `refit_trtllm`: a weight-stripped engine gets its weights back by `trtllm-refit`.

Job: `{"engine", "checkpoint", "output", "version", "gpu": {"product", "compute_capability"}}`. The
tool takes any weights whose names fit: who asks for this step has seen to it that they are the ones
the engine was built from. The refitted engine appears at `output` complete or not at all.

Written against the documented tool; not run on a GPU.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from _step import Refusal, main
from _trtllm import check_whole, find_device, program, ranks_of, run_program

TOOL = "trtllm-refit"


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Chooses the GPU, runs the tool, and moves a whole engine to its place."""
    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    ranks = ranks_of(checkpoint)
    if output.exists():
        raise Refusal("output-exists", "the engine's place is taken", where=output)
    tool = program(TOOL)
    device = find_device(job["gpu"])
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".engine-") as folder:
        place = Path(folder) / "engine"
        command = [
            str(tool),
            f"--engine_dir={Path(job['engine']).resolve()}",
            f"--checkpoint_dir={checkpoint.resolve()}",
            f"--output_dir={place}",
        ]
        started = time.monotonic()
        run_program(command, Path(folder), device, job["version"])
        seconds = round(time.monotonic() - started, 3)
        check_whole(place, ranks, TOOL)
        place.replace(output)
    return {"device": device, "ranks": ranks, "refit_seconds": seconds}


if __name__ == "__main__":
    main(run)
