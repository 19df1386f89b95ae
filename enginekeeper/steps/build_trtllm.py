"""The step `build_trtllm`: a TensorRT-LLM checkpoint becomes an engine by `trtllm-build`.

Job: `{"checkpoint", "output", "version", "arguments": [...], "gpu": {"product",
"compute_capability"}}`. The GPU is looked for before any work. The tool runs in a scratch folder
beside the output, its words go to the log as they are, and the engine appears at `output` complete
or not at all. When the tool fails, so does the step, with the tool's own status: its log says why.

Written against the documented tool; not run on a GPU.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _step import Refusal, main

TOOL = "trtllm-build"
VERSION_LINE = re.compile(r"\[TensorRT-LLM\] TensorRT-LLM version: (\S+)")
BUILDING_LINE = re.compile(r"Build TensorRT engine Unnamed Network 0")
PEAK_LINE = re.compile(r"Build phase peak memory: ([\d.]+) MB, children: ([\d.]+) MB")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Chooses the GPU, runs the tool, and moves a whole engine to its place."""
    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    ranks = _ranks(checkpoint)
    if output.exists():
        raise Refusal("output-exists", "the engine's place is taken", where=output)
    tool = _tool()
    device = _device(job["gpu"])
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".engine-") as folder:
        place = Path(folder) / "engine"
        arguments = [
            *job["arguments"],
            f"--checkpoint_dir={checkpoint.resolve()}",
            f"--output_dir={place}",
            # relative to where the tool runs: it is kept in config.json, and a path that is another
            # one in each build would be another engine
            "--output_timing_cache=model.cache",
        ]
        seen = _build([str(tool), *arguments], Path(folder), device, job["version"], ranks)
        _check_whole(place, ranks)
        place.replace(output)
    return {"device": device, "arguments": arguments[:-3], "ranks": ranks, **seen}


def _ranks(checkpoint: Path) -> int:
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        ranks = (config.get("mapping") or {}).get("world_size", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise Refusal(
            "config-unreadable", "the checkpoint's config.json cannot be read",
            where=checkpoint, actual=error,
        ) from error  # fmt: skip
    if type(ranks) is not int or ranks < 1:
        raise Refusal(
            "config-field-type", "not a number of ranks",
            where="mapping.world_size", actual=repr(ranks), expected="1 or more",
        )  # fmt: skip
    missing = [n for n in range(ranks) if not (checkpoint / f"rank{n}.safetensors").is_file()]
    if missing:
        raise Refusal(
            "missing-rank", "the checkpoint is not whole",
            where=checkpoint, expected=f"rank{missing[0]}.safetensors",
        )  # fmt: skip
    return ranks


def _tool() -> Path:
    """Returns the tool of this toolchain: beside its interpreter, not somewhere on the PATH."""
    path = Path(sys.executable).parent / TOOL
    if not path.is_file():
        raise Refusal(
            "no-trtllm-build", f"this toolchain has no {TOOL}", where=path,
            remedy="releases up to 1.2.1 have it: enginekeeper toolchain sync NAME on a GPU host",
        )  # fmt: skip
    return path


def _device(wanted: dict[str, str]) -> dict[str, str]:
    """Returns the first GPU that is the one the engine is for; refuses before any work.

    Numbers in CUDA_VISIBLE_DEVICES are taken in nvidia-smi's order, which is that of the bus.
    """
    found = _devices()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        found = [one for one in found if one["index"] in names or one["uuid"] in names]
    expected = f"{wanted['product']}, compute capability {wanted['compute_capability']}"
    for one in found:
        if (one["product"], one["compute_capability"]) == (
            wanted["product"], wanted["compute_capability"],
        ):  # fmt: skip
            return one
    raise Refusal(
        "wrong-gpu",
        "there is no GPU of the kind the engine is for",
        expected=expected,
        actual=", ".join(f"{it['product']} ({it['compute_capability']})" for it in found) or "none",
        remedy="build on a host that has one: an engine is bound to the GPU that built it",
    )


def _devices() -> list[dict[str, str]]:
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise Refusal(
            "no-gpu", "there is no nvidia-smi here, and so no GPU to build on",
            remedy="build on a GPU host",
        ) from None  # fmt: skip
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise Refusal(
            "driver-silent", "the NVIDIA driver does not answer", actual=said[-1] if said else "",
            remedy="after a driver update reboot the node or reload the kernel module",
        )  # fmt: skip
    names = ("index", "uuid", "product", "compute_capability")
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _build(
    command: list[str], folder: Path, device: dict[str, str], version: str, ranks: int
) -> dict[str, Any]:
    """Runs the tool to its end; returns what its log says of the build."""
    # By its UUID: CUDA counts GPUs in an order of its own, unless it is told otherwise.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device["uuid"]}
    started, built = time.monotonic(), 0
    peak: dict[str, float] = {}
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:  # fmt: skip
        for line in child.stdout or ():
            print(line, end="", flush=True)
            if (match := VERSION_LINE.search(line)) and match[1] != version:
                child.kill()
                raise Refusal(
                    "wrong-release", "the toolchain is of another release",
                    actual=match[1], expected=version,
                    remedy="resolve its lock again: enginekeeper toolchain lock NAME",
                )  # fmt: skip
            if match := PEAK_LINE.search(line):
                peak = {"host_mb": float(match[1]), "children_mb": float(match[2])}
            if BUILDING_LINE.search(line):
                built += 1
                print(f"progress {built}/{ranks} rank {built - 1}", flush=True)
    if child.returncode != 0:
        _fail(child.returncode)
    return {"build_seconds": round(time.monotonic() - started, 3), "peak_memory": peak}


def _fail(status: int) -> None:
    """Ends as the tool ended; a tool that was killed leaves no word, so its word is said here."""
    if status == -signal.SIGKILL:
        print("Killed", flush=True)
    sys.exit(status if status > 0 else 128 - status)


def _check_whole(place: Path, ranks: int) -> None:
    wanted = ["config.json", *(f"rank{rank}.engine" for rank in range(ranks))]
    for name in wanted:
        path = place / name
        if not path.is_file() or path.stat().st_size == 0:
            raise Refusal(
                "engine-incomplete", f"{TOOL} ended well and left no whole engine",
                where=name, expected=", ".join(wanted),
                actual=", ".join(sorted(it.name for it in place.glob("*"))) or "nothing",
            )  # fmt: skip


if __name__ == "__main__":
    main(run)
