"""The step `score_trtllm`: an engine scores a tokenized suite through TensorRT-LLM's LLM API.

Job: as `score_engine`, with `"api": {"module", "version", "arguments"}` in place of the engine,
which the arguments name, `"way": "generation" | "context"` and `"max_batch"`; for a real engine
`"gpu"` and `"ranks"`, too: the GPUs that the process is to see; for a bundle `"caches"` (see
`_runtime`), and the result says whether they were used. See `_llm_arm` for the ways. What
the runtime refuses or fails at ends the step: its log says why.

Written against the documented interface; not run on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _runtime import lead_caches
from _step import Refusal, main
from _trtllm import use_devices, vocabulary_of


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the engine and scores the suite with it."""
    caches = lead_caches(job)
    from _llm_api import LlmApi  # noqa: PLC0415 - torch takes seconds to import
    from _llm_arm import WAYS, LlmArm  # noqa: PLC0415
    from _rounds import score_in_rounds  # noqa: PLC0415
    from _scoring import score  # noqa: PLC0415

    if job["way"] not in WAYS:
        raise Refusal("job", "no such way to score", actual=job["way"], expected=", ".join(WAYS))
    use_devices(job)
    vocabulary = vocabulary_of(Path(job["tokens"]))
    with LlmApi(job["api"], vocabulary) as api:
        arm = LlmArm(api, job["way"], vocabulary, int(job["max_batch"]))
        found = score_in_rounds(arm, job) if job.get("rounds") else score(arm, job)
    return found if caches is None else {**found, "caches": caches}


if __name__ == "__main__":
    main(run)
