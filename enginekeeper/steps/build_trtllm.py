"""The step `build_trtllm`: a TensorRT-LLM checkpoint becomes an engine by `trtllm-build`.

Job: `{"checkpoint", "output", "version", "arguments": [...], "workers", "gpu": {"product",
"compute_capability"}, "timing_cache": null or {"start": path or null, "end": path}}`. The GPU is
looked for before any work; `workers` ranks at most are built at once, each on a GPU of its own. The
tool runs in a scratch folder beside the output, its words go to the log as they are, and the engine
appears at `output` complete or not at all. A timing cache to start with is copied to where the
arguments say that the tool looks for it; what the tool leaves there goes to `end`. When the tool
fails, so does the step, with the tool's own status: its log says why.

Written against the documented tool; not run on a GPU.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

from _step import main
from _trtllm import Making, making_engine, run_program

TOOL = "trtllm-build"
BUILDING_LINE = re.compile(r"Build TensorRT engine Unnamed Network 0")
TIMING_CACHE = "model.cache"
NO_CACHE_LINE = re.compile(r"Invalid timing cache, using freshly created one")
"""Said of a file that is not there (tensorrt_llm/builder.py), not of one that does not fit."""

LOCAL_CACHE_LINE = re.compile(r"Local timing cache in use")
REFUSED_CACHE_LINE = re.compile(
    r"The timing cache will not be used|Detected invalid timing cache, setup a local cache instead"
)
"""Said by TensorRT, once for a rank, when it builds without the cache that it was given: the one
while it builds, the other before (github.com/NVIDIA/TensorRT/issues/3566, of TensorRT 8.6)."""

ENTRIES_LINE = re.compile(r"Serialized (\d+) timing cache entries")
"""Said by TensorRT when a cache is written: what was measured, in this build and before."""

PEAK_LINE = re.compile(r"Build phase peak memory: ([\d.]+) MB, children: ([\d.]+) MB")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Chooses the GPU, runs the tool, and moves a whole engine to its place."""
    with making_engine(job, TOOL) as making:
        arguments = [
            *job["arguments"],
            f"--checkpoint_dir={making.checkpoint}",
            f"--output_dir={making.place}",
        ]
        if len(making.devices) > 1:
            arguments.append(f"--workers={len(making.devices)}")
        timing, cache = job.get("timing_cache"), making.place.with_name(TIMING_CACHE)
        start = None if timing is None else timing["start"]
        if start is not None:
            shutil.copyfile(start, cache)
        seen = _build(making, arguments, job["version"])
        seen["timing_cache"].update(
            before=None if start is None else Path(start).stat().st_size,
            after=cache.stat().st_size if cache.is_file() else None,
        )
        if timing is not None and cache.is_file():
            cache.replace(timing["end"])
    return {
        "device": making.devices[0], "workers": len(making.devices),
        "arguments": job["arguments"], "ranks": making.ranks, **seen,
    }  # fmt: skip


def _build(making: Making, arguments: list[str], version: str) -> dict[str, Any]:
    """Runs the tool to its end; returns what its log says of the build."""
    started, built, fresh, local, refused = time.monotonic(), 0, 0, 0, 0
    peak: dict[str, float] = {}
    entries: list[int] = []

    def hear(line: str) -> None:
        nonlocal built, fresh, local, refused
        if match := PEAK_LINE.search(line):
            peak.update(host_mb=float(match[1]), children_mb=float(match[2]))
        fresh += NO_CACHE_LINE.search(line) is not None
        local += LOCAL_CACHE_LINE.search(line) is not None
        refused += REFUSED_CACHE_LINE.search(line) is not None
        if match := ENTRIES_LINE.search(line):
            entries.append(int(match[1]))
        if BUILDING_LINE.search(line):
            built += 1
            # ranks that are built at once come in any order
            which = f"rank {built - 1}" if len(making.devices) == 1 else "ranks"
            print(f"progress {built}/{making.ranks} {which}", flush=True)

    run_program(making, arguments, version, hear)
    return {
        "build_seconds": round(time.monotonic() - started, 3),
        "peak_memory": peak,
        "timing_cache": {
            "ranks": built,
            "fresh": fresh,
            "not_taken": max(local, refused),
            "entries": entries[0] if entries else None,  # the first rank writes the file
        },
    }


if __name__ == "__main__":
    main(run)
