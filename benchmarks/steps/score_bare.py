"""A benchmark's step: what scoring costs beside running the engine on the same tokens.

Job: `{"engine", "tokens", "targets", "top_k"}`. Prompt after prompt, bare and scored take turns:
*bare* is prefill and the logits of every position; *scored* is what `score_engine` does with them,
log-softmax, the best tokens, those of the targets. Decode is in neither. Processor seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "enginekeeper" / "steps"))

from _engine import Engine
from _engine_arm import EngineArm
from _scoring import empty_columns, parse_job, score_prompts
from _step import main


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Runs every prompt twice and returns both times."""
    arm = EngineArm(Engine(Path(job["engine"])))
    request = parse_job({**job, "greedy": {"prefix": 2, "tokens": 1}}, arm.vocabulary)
    columns, spent = empty_columns(request), {"bare": 0.0, "scored": 0.0}
    for number, ids in enumerate(request.tokens.ids):
        turns = ("bare", "scored") if number % 2 else ("scored", "bare")
        for turn in turns:
            started = time.process_time()
            if turn == "bare":
                arm.logits(arm.states([ids])[0][:-1])
            else:
                score_prompts(arm, request, columns, [number])
            spent[turn] += time.process_time() - started
    return {"positions": int(request.tokens.offsets[-1]), **spent}


if __name__ == "__main__":
    main(run)
