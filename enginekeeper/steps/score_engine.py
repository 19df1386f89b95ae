"""The step `score_engine`: an engine directory scores a tokenized suite.

Job: `{"engine", "tokens", "targets": {name: score file}, "output", "top_k", "batch_size",
"greedy": {"prefix", "tokens", "batch_size"?}, "chunk_tokens"?, "rounds"?}`. With `chunk_tokens`
prompts are read in chunks of that size; 1 scores everything through the decode graph. With
`rounds` the runner is asked after every prompt whether to go on; see `_rounds`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _engine_arm import EngineArm
from _step import main


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the engine and scores the suite with it."""
    from _engine import Engine  # noqa: PLC0415 - torch takes seconds to import
    from _rounds import score_in_rounds  # noqa: PLC0415
    from _scoring import score  # noqa: PLC0415

    arm = EngineArm(Engine(Path(job["engine"])), job.get("chunk_tokens"))
    return score_in_rounds(arm, job) if job.get("rounds") else score(arm, job)


if __name__ == "__main__":
    main(run)
