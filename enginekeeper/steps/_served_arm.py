"""An engine behind `trtllm-serve` as an arm of the comparison.

What a server gives depends on how its engine was built. With context logits every number is there.
Without, a completion names the token that was chosen and, from some release on, its
log-probability: the other arms' tokens have none, so such scores say less, and say so.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _score_file import write_scores
from _scoring import measured, nothing_continued, parse_job, score_positions
from _served import ids_of
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _score_file import Arrays
    from _scoring import ScoreJob
    from _served import Served

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

AT_ONCE = 64
"""Beginnings of prompts in one request."""


class ServedArm:
    """Context logits of an engine that was built to give them."""

    name = "engine"

    def __init__(self, served: Served, vocabulary: int, max_batch: int) -> None:
        self._served = served
        self.vocabulary = vocabulary
        self.max_batch = max_batch

    def states(self, prompts: Prompts) -> list[Tensor]:
        """Returns the logits of every position of each prompt, but its last."""
        return [self._read(ids)[:-1] for ids in prompts]

    def logits(self, states: Tensor) -> Tensor:
        """Returns what it is given."""
        return states

    def _read(self, ids: Sequence[int]) -> Tensor:
        (choice,) = self._served.complete([ids], 1, return_context_logits=True)
        logits = choice.get("context_logits")
        rows = torch.tensor(logits or [], dtype=torch.float32)
        if rows.ndim != 2 or len(rows) != len(ids) or rows.shape[1] < self.vocabulary:  # noqa: PLR2004
            raise Refusal(
                "unexpected-output", "there are not as many context logits as prompt tokens",
                expected=f"{len(ids)} x {self.vocabulary}", actual=list(rows.shape),
            )  # fmt: skip
        return rows[:, : self.vocabulary]


def score_served(served: Served, job: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """Scores a suite by context logits, or by what was chosen at every beginning of a prompt.

    Continuations come from decode in both ways. The score file says what it lacks.
    """
    request = parse_job(job, vocabulary)
    given, whole = bool(job["logprobs"]), job["way"] == "context"
    started = time.monotonic()
    if whole:
        arm = ServedArm(served, vocabulary, int(job["max_batch"]))
        arrays = score_positions(arm, request)
    else:
        arrays = _positions(served, request, given=given)
    scored = time.monotonic()
    arrays |= _continuations(served, request, given=given)
    arrays["offsets"] = request.tokens.offsets
    lacks = [
        *([] if whole else ["target_logprobs"]),
        *([] if whole or given else ["top_logprobs"]),
        *([] if given else ["greedy_logprobs"]),
    ]
    meta = {"top_k": request.top_k if whole else 1, "lacks": lacks}
    write_scores(Path(job["output"]), arrays, arm="engine", meta=meta)
    return measured(arrays, scored - started, time.monotonic() - scored)


def _positions(served: Served, request: ScoreJob, *, given: bool) -> Arrays:
    beginnings = [ids[:length] for ids in request.tokens.ids for length in range(1, len(ids))]
    ids = np.zeros((len(beginnings), 1), np.int32)
    logprobs = np.zeros((len(beginnings), 1), np.float32)
    for first in range(0, len(beginnings), AT_ONCE):
        print(f"progress {first}/{len(beginnings)} scoring", flush=True)
        part = beginnings[first : first + AT_ONCE]
        for row, choice in enumerate(_choices(served, part, 1, given=given), start=first):
            ids[row], logprobs[row] = choice
    finite = np.isfinite(logprobs[:, 0]).astype(np.uint8)
    return {
        "top_ids": ids, "top_logprobs": logprobs, "finite": finite,
        "target_logprobs": np.zeros(len(beginnings), np.float32),
    }  # fmt: skip


def _continuations(served: Served, request: ScoreJob, *, given: bool) -> Arrays:
    ids, logprobs = nothing_continued(request)
    greedy = request.greedy
    prefixes = [prompt[: greedy.prefix] for prompt in request.tokens.ids]
    if greedy.tokens:
        for row, choice in enumerate(_choices(served, prefixes, greedy.tokens, given=given)):
            ids[row], logprobs[row] = choice
    return {"greedy_ids": ids, "greedy_logprobs": logprobs}


def _choices(
    served: Served, prompts: Prompts, tokens: int, *, given: bool
) -> list[tuple[list[int], list[float]]]:
    wanted = {"logprobs": 1} if given else {}
    found = []
    for choice in served.complete(prompts, tokens, **wanted):
        ids = ids_of(choice)
        _require_length(ids, tokens)
        said = (choice.get("logprobs") or {}).get("token_logprobs") if given else [0.0] * tokens
        if not isinstance(said, list) or len(said) != tokens:
            raise Refusal(
                "unexpected-output", "trtllm-serve gave no log-probabilities of what it chose",
                expected=f"{tokens} token_logprobs", actual=said,
            )  # fmt: skip
        found.append((ids, [np.nan if one is None else float(one) for one in said]))
    return found


def _require_length(ids: list[int], tokens: int) -> None:
    if len(ids) != tokens:
        raise Refusal(
            "unexpected-output", "a continuation has another length than was asked for",
            expected=tokens, actual=len(ids),
        )  # fmt: skip
