"""The step `run_with_double`: a step that needs TensorRT-LLM, with the double in its place.

Job: `{"step", "job", "double"}`: the step's own job, and what the double is told (`_double`).
Everything it writes is SIMULATED and says nothing of a GPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import describe_runtime
import probe_trtllm
import score_served
import score_triton
import score_trtllm
import warm_pytorch
from _double import serve_command, stand_in
from _step import Refusal, main

STEPS = (
    "score_trtllm", "score_served", "score_triton", "probe_trtllm", "warm_pytorch",
    "describe_runtime",
)  # fmt: skip


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the step."""
    if job["step"] not in STEPS:
        raise Refusal("job", "no such step", actual=job["step"], expected=", ".join(STEPS))
    if job["step"] == "score_served":
        outputs = score_served.run(job["job"], serve_command(job["double"]))
    elif job["step"] == "score_triton":
        command = serve_command(job["double"], score_triton.TOOL)
        outputs = score_triton.run(job["job"], command)
    else:
        stand_in(job["double"])
        runs = {
            "score_trtllm": score_trtllm.run,
            "probe_trtllm": probe_trtllm.run,
            "describe_runtime": describe_runtime.run,
            "warm_pytorch": partial(warm_pytorch.run, simulated=True),
        }
        outputs = runs[job["step"]](job["job"])
    return {**outputs, "simulated": True}


if __name__ == "__main__":
    main(run)
