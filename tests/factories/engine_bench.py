"""Runs the steps of the embedded builder on small models, and compares what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import StepRun, run_step

LIMITS = {"max_batch_size": 4, "max_input_len": 128, "max_seq_len": 160, "max_num_tokens": 512}


@dataclass(frozen=True)
class Bench:
    """Runs the steps of the embedded builder and reads what they wrote."""

    python: Path
    graphs: Path
    folder: Path

    def run(
        self,
        step: str,
        job: dict[str, Any],
        name: str,
        on_line: Callable[[str], None] | None = None,
    ) -> StepOutcome:
        """Runs one step; its job and log stay below the test's folder."""
        run = StepRun("inductor", step, job, self.folder / f"{name}.run", 900)
        return run_step(run, python=self.python, on_line=on_line)

    def compile(self, checkpoint: Path, name: str = "engine", **changes: Any) -> StepOutcome:  # noqa: ANN401
        """Compiles a checkpoint to `folder/name`."""
        job = {
            "checkpoint": str(checkpoint),
            "output": str(self.folder / name),
            "graphs": str(self.graphs),
            "limits": LIMITS,
            **changes,
        }
        return self.run("compile_engine", job, name)

    def tokens(self, vocabulary: int, lengths: tuple[int, ...] = (40, 23, 9)) -> Path:
        """Writes random prompts of the given lengths."""
        path = self.folder / "tokens.json"
        random = np.random.default_rng(3)
        prompts = [
            {"id": f"p{n}", "stratum": "s", "ids": random.integers(0, vocabulary, size).tolist()}
            for n, size in enumerate(lengths)
        ]
        path.write_text(json.dumps({"prompts": prompts, "vocab_size": vocabulary}))
        return path

    def score(
        self,
        arm: str,
        name: str,
        vocabulary: int,
        on_line: Callable[[str], None] | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> dict[str, Any]:
        """Scores an engine (`engine=`) or a model (`twin=`) and returns the arrays."""
        output = self.folder / f"{name}.safetensors"
        job = {
            "tokens": str(self.tokens(vocabulary)),
            "targets": {},
            "output": str(output),
            "top_k": vocabulary,
            "greedy": {"prefix": 8, "tokens": 12},
            **changes,
        }
        self.run(arm, job, name, on_line)
        return dict(load_file(output))

    def parts(self, step: str, twin: Path, vocabulary: int, lengths: tuple[int, ...]) -> Path:
        """Holds the engine's parts against its twin's by `probe_layers` or `probe_linears`."""
        output = self.folder / f"{step}.safetensors"
        job = {
            "engine": str(self.folder / "engine"),
            "twin": str(twin),
            "tokens": str(self.tokens(vocabulary, lengths)),
            "prompts": list(range(len(lengths))),
            "longest": 24,
            "nudge": {"relative": 3e-7, "seed": 1234},
            "output": str(output),
        }
        self.run(step, job, step)
        return output


def mean_kl(p: dict[str, Any], q: dict[str, Any]) -> float:
    """KL(p || q) over p's vocabulary; both arms hold all of it, in an order of their own.

    ModelOpt pads the vocabulary of INT4 checkpoints to a multiple of 64, so q may have more.
    """
    size = p["top_ids"].shape[1]
    logp, logq = (_over_vocabulary(arm, size) for arm in (p, q))
    return float((np.exp(logp) * (logp - logq)).sum(axis=1).mean())


def _over_vocabulary(arm: dict[str, Any], size: int) -> npt.NDArray[np.float64]:
    """Returns the logarithms of the probabilities of ids below `size`, given that it is one."""
    order = np.argsort(arm["top_ids"], axis=1)
    rows = np.take_along_axis(arm["top_logprobs"].astype(np.float64), order, axis=1)[:, :size]
    normalized: npt.NDArray[np.float64] = rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)
    return normalized
