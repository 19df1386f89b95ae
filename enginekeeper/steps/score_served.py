"""The step `score_served`: an engine scores a tokenized suite through `trtllm-serve`.

Job: as `score_engine`, with `"serve": {"version", "arguments", "options"}` in place of the engine,
which the arguments name, `"way": "generation" | "context"`, `"logprobs"` (whether the release gives
any) and `"max_batch"`; for a bundle `"caches"` (see `_runtime`). By *context* the file is complete;
by *generation* it says what it lacks.

Written against the documented server; not run on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _runtime import lead_caches
from _step import Refusal, main
from _trtllm import program, use_devices, vocabulary_of

TOOL = "trtllm-serve"


def run(job: dict[str, Any], command: list[str] | None = None) -> dict[str, Any]:
    """Starts the server, which is that of this toolchain unless told otherwise, and scores."""
    caches = lead_caches(job)  # the server inherits where they are
    from _served import serving  # noqa: PLC0415 - torch takes seconds to import
    from _served_arm import score_served  # noqa: PLC0415

    use_devices(job)
    told, vocabulary = job["serve"], vocabulary_of(Path(job["tokens"]))
    with serving(command or [str(program(TOOL))], told["arguments"], told["options"]) as served:
        if (said := served.version()) != told["version"]:
            raise Refusal(
                "wrong-release", "the toolchain is of another release",
                actual=said, expected=told["version"],
            )  # fmt: skip
        found = score_served(served, job, vocabulary)
    return found if caches is None else {**found, "caches": caches}


if __name__ == "__main__":
    main(run)
