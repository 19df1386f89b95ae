"""The step `build_trtllm`: a TensorRT-LLM checkpoint becomes an engine by `trtllm-build`.

Job: `{"checkpoint", "output", "version", "arguments": [...], "gpu": {"product",
"compute_capability"}}`. The GPU is looked for before any work. The tool runs in a scratch folder
beside the output, its words go to the log as they are, and the engine appears at `output` complete
or not at all. When the tool fails, so does the step, with the tool's own status: its log says why.

Written against the documented tool; not run on a GPU.
"""

from __future__ import annotations

import re
import time
from typing import Any

from _step import main
from _trtllm import Making, making_engine, run_program

TOOL = "trtllm-build"
BUILDING_LINE = re.compile(r"Build TensorRT engine Unnamed Network 0")
PEAK_LINE = re.compile(r"Build phase peak memory: ([\d.]+) MB, children: ([\d.]+) MB")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Chooses the GPU, runs the tool, and moves a whole engine to its place."""
    with making_engine(job, TOOL) as making:
        arguments = [
            *job["arguments"],
            f"--checkpoint_dir={making.checkpoint}",
            f"--output_dir={making.place}",
            # relative to where the tool runs: it is kept in config.json, and a path that is another
            # one in each build would be another engine
            "--output_timing_cache=model.cache",
        ]
        seen = _build(making, arguments, job["version"])
    return {
        "device": making.device, "arguments": job["arguments"], "ranks": making.ranks, **seen,
    }  # fmt: skip


def _build(making: Making, arguments: list[str], version: str) -> dict[str, Any]:
    """Runs the tool to its end; returns what its log says of the build."""
    started, built = time.monotonic(), 0
    peak: dict[str, float] = {}

    def hear(line: str) -> None:
        nonlocal built
        if match := PEAK_LINE.search(line):
            peak.update(host_mb=float(match[1]), children_mb=float(match[2]))
        if BUILDING_LINE.search(line):
            built += 1
            print(f"progress {built}/{making.ranks} rank {built - 1}", flush=True)

    run_program(making, arguments, version, hear)
    return {"build_seconds": round(time.monotonic() - started, 3), "peak_memory": peak}


if __name__ == "__main__":
    main(run)
