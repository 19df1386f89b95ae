"""Lets the double stand in the place of `tensorrt_llm` in this process; it is always SIMULATED."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

DOUBLES = Path(__file__).with_name("doubles")


def stand_in(job: dict[str, Any]) -> None:
    """Puts the double of a release on the path: `{"version", "models": {directory: stand-in}}`.

    The directories are what is loaded by name: engines or checkpoints. What stands in for each is
    the directory of a model that the CPU executor runs; null: nothing is computed, for a run whose
    answers nobody reads. `"programs"` is a folder with doubles of NVIDIA's programs, if one is
    needed.
    """
    print("SIMULATED: a double of tensorrt_llm; the CPU computes, no GPU", flush=True)
    sys.path.insert(0, str(DOUBLES))
    from tensorrt_llm_release import STATE  # noqa: PLC0415 - only now on the path

    STATE.version = job["version"]
    STATE.models = {
        Path(name): None if model is None else Path(model) for name, model in job["models"].items()
    }
    if "programs" in job:
        os.environ["PATH"] = f"{job['programs']}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def serve_command(job: dict[str, Any], program: str = "trtllm-serve") -> list[str]:
    """Returns how the double of a server is started, with the same said to it."""
    print(f"SIMULATED: a double of {program}; the CPU computes, no GPU", flush=True)
    script = program.replace("-", "_")
    told = Path("double.json").absolute()
    told.write_text(json.dumps(job), encoding="utf-8")
    return [sys.executable, "-s", "-E", "-u", str(DOUBLES / f"{script}.py"), str(told)]
