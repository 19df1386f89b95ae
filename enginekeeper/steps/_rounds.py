"""Scoring that may end before the suite does: after every prompt the runner is asked.

Rules:

- `"rounds": [[0, 5], [1, 4]]` in the job names every prompt once, in the order it is scored;
- after each prompt the open round stands as a score file in `OUTPUT.part`, the step says
  `ask N`, N being how many prompts were scored in all, and waits for the line `N go` or `N stop`
  in `OUTPUT.answer`;
- prompts of a round are continued greedily together, when the round is scored;
- the score file holds the prompts that were scored, in that order.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _score_file import write_scores
from _scoring import (
    continue_prompts,
    empty_columns,
    measured,
    nothing_continued,
    parse_job,
    score_prompts,
)
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _score_file import Arrays
    from _scoring import Arm, ScoreJob

POLL = 0.01
"""Seconds between two looks for an answer: little beside a prompt, which takes half a second."""


class RoundsRun:
    """One run in rounds: what was scored, and the files that are spoken through."""

    def __init__(self, arm: Arm, request: ScoreJob, output: Path) -> None:
        self._arm = arm
        self._request = request
        self._output = output
        self._columns = empty_columns(request)
        self._continued = nothing_continued(request)
        self.scored: list[int] = []
        self.scoring = self.decoding = 0.0

    def score(self, number: int) -> None:
        """Scores one prompt."""
        started = time.monotonic()
        score_prompts(self._arm, self._request, self._columns, [number])
        self.scored.append(number)
        self.scoring += time.monotonic() - started

    def continue_from(self, chosen: Sequence[int]) -> None:
        """Continues the prompts of a round."""
        started = time.monotonic()
        continue_prompts(self._arm, self._request, chosen, self._continued)
        self.decoding += time.monotonic() - started

    def ask(self, of_round: Sequence[int]) -> bool:
        """Shows the open round and returns whether to go on."""
        asked = len(self.scored)
        self._write(self._output.with_name(self._output.name + ".part"), of_round)
        print(f"ask {asked}", flush=True)
        answer = self._output.with_name(self._output.name + ".answer")
        while True:
            said = answer.read_text(encoding="ascii") if answer.is_file() else ""
            if said in (f"{asked} go", f"{asked} stop"):
                return said.endswith("go")
            time.sleep(POLL)

    def finish(self) -> dict[str, Any]:
        """Writes the score file and returns the step's outputs."""
        arrays = self._write(self._output, self.scored)
        return {**measured(arrays, self.scoring, self.decoding), "prompts": len(self.scored)}

    def _write(self, path: Path, chosen: Sequence[int]) -> Arrays:
        starts = self._request.tokens.offsets
        rows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in chosen])
        lengths = [starts[one + 1] - starts[one] for one in chosen]
        ids, logprobs = self._continued
        arrays = {name: array[rows] for name, array in self._columns.arrays.items()}
        arrays["offsets"] = np.cumsum([0, *lengths], dtype=np.int64)
        arrays["greedy_ids"], arrays["greedy_logprobs"] = ids[chosen], logprobs[chosen]
        meta = {"batch_size": 1, "top_k": self._request.top_k, "prompts": list(chosen)}
        write_scores(path, arrays, arm=self._arm.name, meta=meta)
        return arrays


def score_in_rounds(arm: Arm, job: Mapping[str, Any]) -> dict[str, Any]:
    """Scores round after round until the suite ends or the runner says stop."""
    request = parse_job(job, arm.vocabulary)
    rounds = _checked(job["rounds"], len(request.tokens.ids))
    run = RoundsRun(arm, request, Path(job["output"]))
    for one in rounds:
        for place, number in enumerate(one, start=1):
            print(f"progress {len(run.scored)}/{len(request.tokens.ids)} scoring", flush=True)
            run.score(number)
            if place == len(one):
                run.continue_from(one)
            if not run.ask(one[:place]):
                if place < len(one):
                    run.continue_from(one[:place])
                return run.finish()
    return run.finish()


def _checked(rounds: Sequence[Sequence[int]], prompts: int) -> Sequence[Sequence[int]]:
    if sorted(number for one in rounds for number in one) != list(range(prompts)) or not all(
        rounds
    ):
        raise Refusal(
            "job",
            "the rounds do not name every prompt once",
            where="rounds",
            expected=f"0 to {prompts - 1}",
            actual=rounds,
        )
    return rounds
