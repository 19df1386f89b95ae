"""The step `refit_trtllm`: a weight-stripped engine gets its weights back by `trtllm-refit`.

Job: `{"engine", "checkpoint", "output", "version", "gpu": {"product", "compute_capability"}}`. The
tool takes any weights whose names fit: who asks for this step has seen to it that they are the ones
the engine was built from. The refitted engine appears at `output` complete or not at all.

Written against the documented tool; not run on a GPU.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from _step import main
from _trtllm import making_engine, run_program

TOOL = "trtllm-refit"


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Chooses the GPU, runs the tool, and moves a whole engine to its place."""
    with making_engine(job, TOOL) as making:
        arguments = [
            f"--engine_dir={Path(job['engine']).resolve()}",
            f"--checkpoint_dir={making.checkpoint}",
            f"--output_dir={making.place}",
        ]
        started = time.monotonic()
        run_program(making, arguments, job["version"])
        seconds = round(time.monotonic() - started, 3)
    return {"device": making.devices[0], "ranks": making.ranks, "refit_seconds": seconds}


if __name__ == "__main__":
    main(run)
