"""The step `compile_engine`: a TensorRT-LLM checkpoint becomes an engine directory.

Job: `{"checkpoint", "output", "graphs", "limits": {"max_batch_size", "max_input_len",
"max_seq_len", "max_num_tokens"}}`; `graphs` is the folder of compiled graphs that engines share.
The engine appears at `output` complete or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _layer_plan import Plan, plan_engine
from _model_config import load_config
from _step import Refusal, main
from _tensor_index import read_index

if TYPE_CHECKING:
    from _graphs import BuiltGraph

LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")
CHECKPOINT_FILES = ("config.json", "rank0.safetensors")
"""Copied unchanged, so that a store keeps their bytes once for checkpoint and engine."""

SCRATCH = ".inductor-"
ABANDONED_SECONDS = 24 * 3600
"""No step may run that long; a scratch folder this old is left from one that was killed."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Plans, compiles what the shared folder does not hold, and assembles the engine."""
    checkpoint, output, graphs = (Path(job[name]) for name in ("checkpoint", "output", "graphs"))
    config = load_config(checkpoint)
    limits = _limits(job["limits"], config.rope.max_positions)
    plan = plan_engine(config, read_index(checkpoint / CHECKPOINT_FILES[1]))
    _check_absent(output)
    graphs.mkdir(parents=True, exist_ok=True)
    _sweep(graphs)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=graphs, prefix=SCRATCH) as scratch:
        # Read by torch's compiler: its own cache is not to outlive the step.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch
        built = _compile(checkpoint, plan, graphs)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".engine-") as folder:
        place = Path(folder) / "engine"
        description = _assemble(checkpoint, plan, built, place, limits)
        place.replace(output)
    rows = [graph.report() for graphs_of in built.values() for graph in graphs_of]
    return {"graphs": rows, "engine": description}


def _sweep(graphs: Path) -> None:
    """Removes what killed compilations left, so that interruptions do not fill the disk."""
    oldest = time.time() - ABANDONED_SECONDS
    for folder in (*graphs.glob(f"{SCRATCH}*"), *graphs.glob("*/.writing-*")):
        with contextlib.suppress(FileNotFoundError):  # somebody else sweeps too
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _compile(checkpoint: Path, plan: Plan, graphs: Path) -> dict[str, list[BuiltGraph]]:
    """Returns the compiled entries by signature; weights are only examples of their shape here."""
    from _checkpoint import open_checkpoint  # noqa: PLC0415 - torch: seconds; refusals come first
    from _graphs import build_graphs, graph_digest  # noqa: PLC0415

    tensors = open_checkpoint(checkpoint).tensors
    distinct = {graph_digest(graph): graph for graph in (*plan.layers, plan.head)}
    built = {}
    for number, (digest, graph) in enumerate(distinct.items(), 1):
        print(f"progress {number}/{len(distinct)} {graph.signature['kind']} {digest}", flush=True)
        built[digest] = build_graphs(graph, tensors, graphs)
    return built


def _assemble(
    checkpoint: Path,
    plan: Plan,
    built: dict[str, list[BuiltGraph]],
    place: Path,
    limits: dict[str, int],
) -> dict[str, Any]:
    """Writes the engine's files and returns what `engine.json` says."""
    from _engine import DESCRIPTION, ENGINE_SCHEMA  # noqa: PLC0415 - torch
    from _graphs import cpu_environment, graph_digest  # noqa: PLC0415

    for digest, entries in built.items():
        folder = place / "graphs" / digest
        folder.mkdir(parents=True)
        for graph in entries:
            shutil.copyfile(graph.path, folder / graph.path.name)
    for name in CHECKPOINT_FILES:
        shutil.copyfile(checkpoint / name, place / name)
    signatures = {graph_digest(graph): graph.signature for graph in (*plan.layers, plan.head)}
    description = {
        "schema": ENGINE_SCHEMA,
        "builder": "inductor",
        "signatures": signatures,
        "layers": [graph_digest(layer) for layer in plan.layers],
        "head": graph_digest(plan.head),
        "limits": limits,
        "environment": cpu_environment(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "assumed": list(plan.config.assumed),
        "unread_tensors": list(plan.unread),
    }
    text = json.dumps(description, indent=1, sort_keys=True)
    (place / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return description


def _limits(asked: dict[str, Any], positions: int) -> dict[str, int]:
    """Checks the requested sizes against one another and against the model's positions."""
    limits = {}
    for name in LIMITS:
        value = asked.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refusal(
                "limits", f"{name} is not a positive number", where=f"limits.{name}", actual=value
            )
        limits[name] = value
    if limits["max_seq_len"] > positions:
        raise Refusal(
            "limits",
            "max_seq_len is beyond the positions the model was made for",
            where="limits.max_seq_len",
            expected=f"at most max_position_embeddings = {positions}",
            actual=limits["max_seq_len"],
        )
    if limits["max_input_len"] > limits["max_seq_len"]:
        raise Refusal(
            "limits",
            "max_input_len is larger than max_seq_len",
            where="limits.max_input_len",
            expected=f"at most {limits['max_seq_len']}",
            actual=limits["max_input_len"],
        )
    return limits


def _check_absent(output: Path) -> None:
    if output.exists():
        raise Refusal(
            "output-exists",
            "the output directory exists already",
            where=str(output),
            remedy="remove it or choose another",
        )


if __name__ == "__main__":
    main(run)
