"""The step `warm_pytorch`: a checkpoint becomes a bundle with the caches of a warm start.

Job: `{"checkpoint", "output", "version", "api": {"module", "version", "arguments"}, "file",
"caches": {name: [variable, place]}, "gpu": {"product", "compute_capability"}, "ranks",
"quantized"}`. The GPUs are looked for before any work: as many of one kind as there are ranks,
which the backend starts by itself. It is loaded with every cache led into the bundle and asked
prompts of many lengths and batches, so that tuning and compiling happen. The bundle appears at
`output` complete or not at all: the checkpoint, the LLM-API file, `caches/`, and `warmup.json`,
which says what the caches are bound to and what is in each; a double's says that it is simulated.

Written against the documented interface; not run on a GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from _runtime import key_of
from _step import Refusal, main
from _trtllm import find_devices

OPTIONS, DESCRIPTION, FOLDER = "llm_api_options.yaml", "warmup.json", "caches"
LENGTHS = (1, 8, 64, 512, 4096, 32768)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = 4
RANK = "rank_"


def run(job: dict[str, Any], *, simulated: bool = False) -> dict[str, Any]:
    """Chooses the GPU, warms up, and moves a whole bundle to its place."""
    checkpoint, output = Path(job["checkpoint"]).resolve(), Path(job["output"])
    _require_model(checkpoint, quantized=bool(job["quantized"]))
    if output.exists():
        raise Refusal("output-exists", "the bundle's place is taken", where=output)
    devices = find_devices(job["gpu"], int(job["ranks"]))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".bundle-") as folder:
        place = Path(folder) / "bundle"
        shutil.copytree(checkpoint, place)
        (place / OPTIONS).write_text(job["file"], encoding="utf-8")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(one["uuid"] for one in devices)
        found = _warmed(job, checkpoint, place / FOLDER)
        description: dict[str, Any] = {"key": key_of(devices[0]), "caches": found}
        if simulated:
            description["simulated"] = True
        text = json.dumps(description, indent=2, sort_keys=True)
        (place / DESCRIPTION).write_text(text, encoding="utf-8")
        place.replace(output)
    return {"devices": devices, **description}


def _require_model(checkpoint: Path, *, quantized: bool) -> None:
    """Refuses what is no model of Hugging Face's format, and one that is not quantized as asked."""
    wanted = ("config.json", *(("hf_quant_config.json",) if quantized else ()))
    for name in wanted:
        if not (checkpoint / name).is_file():
            raise Refusal(
                "not-a-checkpoint", "not a checkpoint in Hugging Face's format, as was asked for",
                where=checkpoint, expected=name,
            )  # fmt: skip
    if not quantized and (checkpoint / "hf_quant_config.json").exists():
        raise Refusal(
            "not-a-checkpoint", "the checkpoint is quantized, and was to be the model as it is",
            where=checkpoint / "hf_quant_config.json",
        )  # fmt: skip


def _warmed(job: dict[str, Any], checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Loads and asks the model; returns what each cache then holds. Refuses where all are empty."""
    for variable, place in job["caches"].values():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder / place)
    from _llm_api import LlmApi  # noqa: PLC0415 - only now: libraries read the variables once

    vocabulary = int(json.loads((checkpoint / "config.json").read_text())["vocab_size"])
    limits = job["api"]["arguments"]
    with LlmApi(job["api"], vocabulary) as api:
        for length in LENGTHS:
            if length + TOKENS <= min(limits["max_num_tokens"], limits["max_seq_len"]):
                print(f"progress 0/0 warming up with {length} tokens", flush=True)
                api.ask([[1] * length], TOKENS)
        for batch in BATCHES:
            if batch <= limits["max_batch_size"]:
                print(f"progress 0/0 warming up with a batch of {batch}", flush=True)
                api.ask([[1, 1]] * batch, TOKENS)
    found = {name: _held(folder / place) for name, (_, place) in job["caches"].items()}
    if not any(one["files"] for one in found.values()):
        raise Refusal(
            "no-caches", "warming up left no cache behind", where=folder,
            remedy="serve the checkpoint as it is: there is nothing to ship",
        )  # fmt: skip
    return found


def _held(place: Path) -> dict[str, Any]:
    """Returns what a cache holds; of one file of tactics also the ranks that it has a part of."""
    files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    if links := [one for one in place.rglob("*") if one.is_symlink()]:
        raise Refusal("unexpected-output", "a cache holds a link", where=links[0])
    held: dict[str, Any] = {
        "files": len(files),
        "bytes": sum(one.stat().st_size for one in files),
    }
    return {**held, "ranks": _ranks_in(place)} if place.is_file() else held


def _ranks_in(tactics: Path) -> list[int]:
    """Returns the ranks that a file of tactics has a part of, by its `rank_N`."""
    try:
        parts = json.loads(tactics.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refusal(
            "unexpected-output", "the autotuner's cache is no JSON", where=tactics, actual=error
        ) from error
    if not isinstance(parts, dict):
        raise Refusal(
            "unexpected-output", "the autotuner's cache is no JSON object", where=tactics,
            actual=type(parts).__name__,
        )  # fmt: skip
    found = (name.removeprefix(RANK) for name in parts if name.startswith(RANK))
    return sorted(int(number) for number in found if number.isdecimal())


if __name__ == "__main__":
    main(run)
