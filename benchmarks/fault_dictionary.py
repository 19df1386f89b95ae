"""Names faulty tensors from outputs alone.

`python benchmarks/fault_dictionary.py MODEL TOKENS SCRATCH`: MODEL is a Hugging Face directory,
TOKENS the suite's token ids (`<cache>/work/tokens/*/tokens.json`), of which it takes the beginnings
of the 24 prompts that are scored first. The model stands for the twin of an unquantized recipe; an
engine is the same model with one fault, in float32 with noise on the output of every linear as
large as bfloat16 rounds. Prints a Markdown table. Everything runs in the `inductor` toolchain,
which must be installed; what is in SCRATCH already is not made again.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of
from enginekeeper.toolchains.runner import StepRun, run_step
from enginekeeper.validation.dictionary import explain, load_dictionary
from enginekeeper.validation.divergence import compare
from enginekeeper.validation.rounds import order_of, rounds_of
from enginekeeper.validation.scores import load_scores
from enginekeeper.validation.tokens import load_tokens

PROMPTS, POSITIONS = 24, 36
"""As `enginekeeper.orchestration.judging` does."""

TOP_K = 20
NUDGE = 2.0**-9
"""Half a unit in the last place of bfloat16."""

FAULTS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("none", {}),
    ("none, other noise", {}),
    ("layer 15 down x 1.03", {"model.layers.15.mlp.down_proj": 1.03}),
    ("layer 15 down x 1.01", {"model.layers.15.mlp.down_proj": 1.01}),
    ("layer 20 o x 0.97", {"model.layers.20.self_attn.o_proj": 0.97}),
    ("layer 5 v x 1.03", {"model.layers.5.self_attn.v_proj": 1.03}),
    ("layer 8 o x 1.03, layer 22 down x 0.97",
     {"model.layers.8.self_attn.o_proj": 1.03, "model.layers.22.mlp.down_proj": 0.97}),
    ("layer 15 down x 2", {"model.layers.15.mlp.down_proj": 2.0}),
)  # fmt: skip


class Bench:
    """Runs steps below one directory, each once."""

    def __init__(self, model: Path, tokens: Path, scratch: Path) -> None:
        settings = Settings.from_environment()
        toolchain = find_toolchain("inductor")
        self.python = installation_of(toolchain, lock_of(toolchain, settings), settings).python
        self.model, self.scratch = model, scratch
        scratch.mkdir(parents=True, exist_ok=True)
        document = json.loads(tokens.read_text())
        order = order_of(rounds_of(load_tokens(tokens)))[:PROMPTS]
        chosen = [document["prompts"][number] for number in order]
        document["prompts"] = [{**one, "ids": one["ids"][: POSITIONS + 1]} for one in chosen]
        self.tokens = scratch / "tokens.json"
        self.tokens.write_text(json.dumps(document))

    def run(self, step: str, name: str, job: Mapping[str, Any]) -> tuple[Path, float]:
        """Runs a step unless its file is there; returns the file and the seconds it took."""
        output = self.scratch / f"{name}.safetensors"
        started = time.monotonic()
        if not output.exists():
            whole = {**job, "tokens": str(self.tokens), "output": str(output)}
            run = StepRun("inductor", step, whole, self.scratch / f"{name}.run", 4 * 3600)
            run_step(run, python=self.python)
        return output, time.monotonic() - started

    def score(self, name: str, model: Path, **more: Any) -> Path:  # noqa: ANN401 - job fields
        """Scores a model on the prompts."""
        greedy = {"prefix": 8, "tokens": 1}
        job = {"twin": str(model), "targets": {}, "top_k": TOP_K, "batch_size": 4,
               "greedy": greedy, **more}  # fmt: skip
        return self.run("score_twin", name, job)[0]

    def faulty(self, gains: Mapping[str, float]) -> Path:
        """Writes a copy of the model with some gains."""
        copy = self.scratch / "faulty"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.model, copy)
        weights = load_file(copy / "model.safetensors")
        for name, gain in gains.items():
            whole = weights[f"{name}.weight"].astype(np.float32) * np.float32(gain)
            weights[f"{name}.weight"] = whole  # float32: a rounding would be noise of its own
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        return copy


def main() -> None:
    """Prints the table."""
    model, tokens, scratch = map(Path, sys.argv[1:4])
    bench = Bench(model, tokens, scratch)
    suite = load_tokens(bench.tokens)
    twin_path = bench.score("twin", model)
    targets = {"twin": str(twin_path)}
    path, seconds = bench.run(
        "sensitivities", "atoms",
        {"twin": str(model), "targets": targets, "prompts": list(range(len(suite.prompts))),
         "positions": POSITIONS, "codes": None},
    )  # fmt: skip
    dictionary, twin = load_dictionary(path), load_scores(twin_path, suite)
    print(f"{len(dictionary.names)} atoms, {suite.positions} positions, {seconds:.0f} s\n")
    print("| fault | mean KL | named | gain | explained | certainty |\n|---|--:|---|--:|--:|--:|")
    for number, (fault, gains) in enumerate(FAULTS):
        noise = {"relative": NUDGE, "seed": 100 + number}
        engine_path = bench.score(f"f{number}", bench.faulty(gains), targets=targets, nudge=noise)
        engine = load_scores(engine_path, suite)
        kl = compare(twin, engine, suite, at="twin")
        found = explain(dictionary, twin, engine)
        for one in found:
            print(
                f"| {fault} | {kl.mean(kl.kl):.2g} | {' or '.join(one.names)} | {one.gain:+.4f} "
                f"| {one.explained:.2f} | {one.certainty:.0f} |",
                flush=True,
            )
        if not found:
            print(f"| {fault} | {kl.mean(kl.kl):.2g} | nobody | | | |", flush=True)


if __name__ == "__main__":
    main()
