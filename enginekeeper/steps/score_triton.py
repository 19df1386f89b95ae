"""The step `score_triton`: an engine scores a tokenized suite through Triton Inference Server.

Job: as `score_served`, with `"triton": {"repository": {path: text}, "model"}` in place of
`"serve"`: the model repository that `ek export triton` writes for the engine, whose configuration
names it. By *context* the file is complete; by *generation* it says what it lacks.

Written against the documented server; not run on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _step import main
from _trtllm import program, use_devices, vocabulary_of

TOOL = "tritonserver"


def run(job: dict[str, Any], command: list[str] | None = None) -> dict[str, Any]:
    """Starts the server, which is that of this toolchain unless told otherwise, and scores."""
    from _served_arm import score_served  # noqa: PLC0415 - torch takes seconds to import
    from _triton import serving  # noqa: PLC0415

    use_devices(job)
    told, vocabulary = job["triton"], vocabulary_of(Path(job["tokens"]))
    command = command or [str(program(TOOL))]
    with serving(command, told["repository"], told["model"]) as served:
        return score_served(served, job, vocabulary)


if __name__ == "__main__":
    main(run)
