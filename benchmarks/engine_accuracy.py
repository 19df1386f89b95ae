"""How far an engine is from the checkpoint it was built from, recipe by recipe.

    python benchmarks/engine_accuracy.py SOURCE WORK CHECKPOINT... --tokens FILE

SOURCE is the Hugging Face directory the checkpoints were made from. Every arm scores the same
tokens over the whole vocabulary: of the suite in FILE those prompts that `--prompts` numbers, cut
to `--length` ids.

- *dequantized*: the checkpoint, dequantized by the core's numpy code, run by transformers in
  float32, inputs rounded as the recipe says. The engine's distance from it is the builder's error.
- *itself*: the same, with relative noise of 1e-7 on what each linear returns, which is what another
  order of summation makes. Recipes that round activations amplify such noise, because a number on a
  tie falls on the other side: no two executors are nearer than this.
- *ModelOpt*: the same weights with ModelOpt's own quantizers on the inputs.
- *decode*: the engine against itself, every token through the decode graph.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from enginekeeper.settings import Settings
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import STEPS, StepRun, run_step
from enginekeeper.toolchains.sync import ensure
from enginekeeper.validation.twin import write_checkpoint_twin

NOISE = {"relative": 1e-7, "seed": 1}
OWN_STEPS = Path(__file__).parent / "steps"
LIMITS = {"max_batch_size": 8, "max_input_len": 512, "max_seq_len": 512, "max_num_tokens": 4096}
TOP = 20
"""Tokens of the partition that a verdict is made on; the rest is one more class."""

COLUMNS = ("dequantized", "partition", "itself", "ModelOpt", "decode")


@dataclass(frozen=True)
class Bench:
    """Where one checkpoint is measured."""

    source: Path
    checkpoint: Path
    work: Path
    tokens: Path
    settings: Settings

    def run(self, toolchain: str, step: str, name: str, job: dict[str, Any]) -> StepOutcome:
        """Runs a step; its log stays below the work folder."""
        scripts = STEPS if (STEPS / f"{step}.py").exists() else OWN_STEPS
        place = self.work / "runs" / name
        step_run = StepRun(toolchain, step, job, place, 3600, scripts=scripts)
        return run_step(step_run, python=ensure(toolchain, self.settings))

    def score(self, step: str, name: str, **arm: Any) -> tuple[dict[str, Any], StepOutcome]:  # noqa: ANN401
        """Scores one arm over the whole vocabulary and returns its arrays."""
        output = self.work / f"{name}.safetensors"
        job = {
            "tokens": str(self.tokens),
            "output": str(output),
            "top_k": json.loads(self.tokens.read_text())["vocab_size"],
            "greedy": {"prefix": 8, "tokens": 0},
            **arm,
        }
        toolchain = "modelopt" if step == "score_modelopt" else "inductor"
        outcome = self.run(toolchain, step, name, job)
        return load_file(output), outcome


def measure(bench: Bench) -> dict[str, float]:
    """Returns the distances of one checkpoint, in nats, and what they cost."""
    engine, twin = bench.work / "engine", bench.work / "twin"
    write_checkpoint_twin(bench.source, bench.checkpoint, twin)
    job = {"checkpoint": str(bench.checkpoint), "output": str(engine), "limits": LIMITS}
    compiled = bench.run(
        "inductor", "compile_engine", "compile", job | {"graphs": str(bench.work.parent / "graphs")}
    )
    model, _ = bench.score("score_twin", "model", twin=str(twin))
    made, outcome = bench.score("score_engine", "engine", engine=str(engine))
    row = {
        "dequantized": divergence(model, made),
        "partition": divergence(model, made, top=TOP),
        "decode": divergence(
            made, bench.score("score_engine", "decode", engine=str(engine), chunk_tokens=1)[0]
        ),
        "tokens/s": outcome.outputs["score_tokens_per_second"],
        "GB": outcome.outputs["peak_memory_bytes"] / 1e9,
        "compile s": sum(graph["seconds"] for graph in compiled.outputs["graphs"]),
    }
    kinds = {(one["activation"] or {}).get("kind") for one in _linears(twin)}
    if kinds - {None}:
        nudged, _ = bench.score("score_twin", "itself", twin=str(twin), nudge=NOISE)
        row["itself"] = divergence(model, nudged)
    if kinds - {None, "nvfp4"}:  # ModelOpt's NVFP4 quantizer needs CUDA
        theirs, _ = bench.score("score_modelopt", "modelopt", twin=str(twin))
        row["ModelOpt"] = divergence(theirs, made)
    return row


def _linears(twin: Path) -> list[dict[str, Any]]:
    return list(json.loads((twin / "twin.json").read_text())["linears"].values())


def divergence(p: dict[str, Any], q: dict[str, Any], top: int | None = None) -> float:
    """Mean KL(p || q): over the whole vocabulary, or over p's top tokens and the rest."""
    orders = np.argsort(p["top_ids"], axis=1), np.argsort(q["top_ids"], axis=1)
    logp, logq = (
        np.take_along_axis(arm["top_logprobs"].astype(np.float64), order, axis=1)
        for arm, order in zip((p, q), orders, strict=True)
    )
    # Renormalized: float32 logarithms of 49,152 tokens do not add up to one beyond 1e-7.
    logp, logq = (rows - np.logaddexp.reduce(rows, axis=1, keepdims=True) for rows in (logp, logq))
    if top is not None:
        chosen = np.argsort(-logp, axis=1)[:, :top]
        logp, logq = (_with_rest(np.take_along_axis(rows, chosen, axis=1)) for rows in (logp, logq))
    return float((np.exp(logp) * (logp - logq)).sum(axis=1).mean())


def _with_rest(rows: Any) -> Any:  # noqa: ANN401 - arrays of float64
    rest = np.log(np.maximum(-np.expm1(np.logaddexp.reduce(rows, axis=1)), 1e-12))
    return np.concatenate([rows, rest[:, None]], axis=1)


def excerpt(tokens: Path, numbers: list[int], length: int) -> dict[str, Any]:
    """Returns some prompts of a tokens file, cut to a number of ids."""
    suite = json.loads(tokens.read_text(encoding="utf-8"))
    chosen = [suite["prompts"][number] for number in numbers]
    return {**suite, "prompts": [{**one, "ids": one["ids"][:length]} for one in chosen]}


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--prompts", default="0,5,9,13,17,21")
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tokens = options.work / "tokens.json"
    numbers = [int(number) for number in options.prompts.split(",")]
    tokens.write_text(json.dumps(excerpt(options.tokens, numbers, options.length)))
    costs = ("tokens/s", "GB", "compile s")
    print(f"| checkpoint | {' | '.join((*COLUMNS, *costs))} |")
    print(f"|---|{'--:|' * (len(COLUMNS) + len(costs))}")
    for checkpoint in options.checkpoints:
        work = options.work / checkpoint.name
        work.mkdir(parents=True)
        settings = Settings.from_environment()
        row = measure(Bench(options.source, checkpoint, work, tokens, settings))
        cells = [f"{row[name]:.1e}" if name in row else "" for name in COLUMNS]
        cells += [f"{row[name]:.3g}" for name in costs]
        print(f"| {checkpoint.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
