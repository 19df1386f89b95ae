"""One scoring loop for every arm, so that arms differ in their numbers only.

An arm gives hidden states of whole prompts, logits of hidden states, and a decoding session. The
loop turns them into the arrays of the score file.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from _score_file import Tokens, read_targets, read_tokens, write_scores
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _score_file import Arrays

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

ROWS = 256
"""Positions whose full log-softmax is held at once: 50 MB for 49,152 tokens."""


GREEDY_BATCH = 8
"""Sequences decoded together: most of a step's work is dequantizing, whatever the batch."""


class Decoding(Protocol):
    """Sequences that are continued one token at a time."""

    def step(self, tokens: Tensor) -> Tensor:
        """Feeds one token per row and returns the next logits (rows, vocabulary)."""


class Arm(Protocol):
    """A model under comparison."""

    name: str
    vocabulary: int
    max_batch: int

    def states(self, prompts: Prompts) -> list[Tensor]:
        """Returns the last hidden states (tokens, hidden) of each prompt of a batch."""

    def logits(self, states: Tensor) -> Tensor:
        """Returns float32 logits (rows, vocabulary) of hidden states (rows, hidden)."""

    def decode(self, prompts: Prompts, tokens: int) -> Decoding:
        """Reads prompts, with room for that many more tokens, and returns the decoding."""


@runtime_checkable
class Continuing(Protocol):
    """An arm that decodes by itself: its runtime chooses the tokens."""

    def continued(self, prompts: Prompts, tokens: int) -> list[tuple[Sequence[int], Tensor]]:
        """Returns the tokens chosen after each prompt, and the logits they were chosen from."""


@dataclass(frozen=True)
class Greedy:
    """How the greedy continuations are made."""

    prefix: int
    tokens: int
    batch_size: int


@dataclass(frozen=True)
class ScoreJob:
    """The part of a scoring job that does not depend on the arm."""

    tokens: Tokens
    targets: Arrays
    top_k: int
    batch_size: int
    greedy: Greedy


@dataclass
class Columns:
    """The arrays of a score file while they fill, in the order of the suite."""

    arrays: Arrays
    targets: Arrays = field(default_factory=dict)


def score(arm: Arm, job: Mapping[str, Any]) -> dict[str, Any]:
    """Scores a suite with an arm, writes the file, and returns the step's outputs."""
    request = parse_job(job, arm.vocabulary)
    started = time.monotonic()
    arrays = score_positions(arm, request)
    scored = time.monotonic()
    ids, logprobs = continue_greedily(arm, request)
    finished = time.monotonic()
    arrays |= {"offsets": request.tokens.offsets, "greedy_ids": ids, "greedy_logprobs": logprobs}
    meta = {"batch_size": request.batch_size, "top_k": request.top_k}
    write_scores(Path(job["output"]), arrays, arm=arm.name, meta=meta)
    return measured(arrays, scored - started, finished - scored)


def measured(arrays: Arrays, scoring: float, decoding: float) -> dict[str, Any]:
    """Returns what a step says of its work: how much, how fast, and in how much memory."""
    positions, decoded = int(arrays["offsets"][-1]), int((arrays["greedy_ids"] >= 0).sum())
    return {
        "positions": positions,
        "score_tokens_per_second": round(positions / max(scoring, 1e-9), 1),
        "decode_tokens_per_second": round(decoded / max(decoding, 1e-9), 1),
        "not_finite": int((arrays["finite"] == 0).sum()),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def parse_job(job: Mapping[str, Any], vocabulary: int) -> ScoreJob:
    """Reads the tokens and targets a job names and checks its numbers."""
    tokens = read_tokens(Path(job["tokens"]), vocabulary)
    positions = int(tokens.offsets[-1])
    greedy, batch_size = job["greedy"], int(job.get("batch_size", 1))
    top_k = int(job["top_k"])
    prefix = int(greedy["prefix"])
    if not 1 <= top_k <= vocabulary or batch_size < 1 or prefix < 2:  # noqa: PLR2004
        raise Refusal(
            "job",
            "a number in the scoring job is too small",
            expected="top_k and batch_size at least 1, greedy.prefix at least 2",
            actual=f"top_k {top_k}, batch_size {batch_size}, greedy.prefix {prefix}",
        )
    return ScoreJob(
        tokens=tokens,
        targets=read_targets(job.get("targets") or {}, positions, vocabulary),
        top_k=top_k,
        batch_size=batch_size,
        greedy=Greedy(
            prefix=prefix,
            tokens=int(greedy["tokens"]),
            batch_size=int(greedy.get("batch_size", GREEDY_BATCH)),
        ),
    )


def score_positions(arm: Arm, request: ScoreJob) -> Arrays:
    """Returns the per-position arrays, in the order of the prompts."""
    columns = empty_columns(request)
    count = len(request.tokens.ids)
    for first in range(0, count, request.batch_size):
        print(f"progress {first}/{count} scoring", flush=True)
        score_prompts(arm, request, columns, range(first, min(first + request.batch_size, count)))
    return columns.arrays


def score_prompts(arm: Arm, request: ScoreJob, columns: Columns, chosen: Sequence[int]) -> None:
    """Scores some prompts as one batch, and writes their rows."""
    batch = [request.tokens.ids[number] for number in chosen]
    starts = request.tokens.offsets
    for number, ids, states in zip(chosen, batch, arm.states(batch), strict=True):
        following = torch.tensor(ids[1:])
        for start in range(0, len(following), ROWS):
            part = slice(start, min(start + ROWS, len(following)))
            at = int(starts[number]) + start
            _fill(columns, at, arm.logits(states[part]), following[part])


def empty_columns(request: ScoreJob) -> Columns:
    """Returns arrays for every position of the suite."""
    positions, k = int(request.tokens.offsets[-1]), request.top_k
    arrays: Arrays = {
        "top_ids": np.zeros((positions, k), np.int32),
        "top_logprobs": np.zeros((positions, k), np.float32),
        "target_logprobs": np.zeros(positions, np.float32),
        "finite": np.zeros(positions, np.uint8),
    }
    for name, ids in request.targets.items():
        arrays[f"at_{name}"] = np.zeros(ids.shape, np.float32)
    return Columns(arrays, targets=request.targets)


def _fill(columns: Columns, start: int, logits: Tensor, following: Tensor) -> None:
    """Writes the rows of some positions; rows that are not finite are marked, and kept as NaN."""
    rows = slice(start, start + len(following))
    arrays = columns.arrays
    logprobs = logits.to(torch.float32).log_softmax(dim=-1)
    values, ids = logprobs.topk(arrays["top_ids"].shape[1], dim=-1)
    arrays["finite"][rows] = logits.isfinite().all(dim=-1).numpy()
    arrays["top_ids"][rows] = ids.numpy()
    arrays["top_logprobs"][rows] = values.numpy()
    arrays["target_logprobs"][rows] = logprobs.gather(1, following[:, None])[:, 0].numpy()
    for name, wanted in columns.targets.items():
        at = logprobs.gather(1, torch.from_numpy(wanted[rows]))
        arrays[f"at_{name}"][rows] = at.numpy()


def continue_greedily(arm: Arm, request: ScoreJob) -> tuple[Any, Any]:
    """Returns the greedy continuation of each prompt's first tokens and its log-probabilities.

    No arm stops at an end of text: the more decode steps, the better.
    All but the last token of the prefix are read at once; the last one, and every token after it,
    goes through the decode path.
    """
    ids, logprobs = nothing_continued(request)
    continue_prompts(arm, request, range(len(request.tokens.ids)), (ids, logprobs))
    return ids, logprobs


def nothing_continued(request: ScoreJob) -> tuple[Any, Any]:
    """Returns the arrays of continuations of which there are none yet."""
    shape = (len(request.tokens.ids), request.greedy.tokens)
    return np.full(shape, -1, np.int32), np.zeros(shape, np.float32)


def continue_prompts(
    arm: Arm, request: ScoreJob, chosen: Sequence[int], out: tuple[Any, Any]
) -> None:
    """Continues some prompts, in batches, into their rows."""
    greedy, (ids, logprobs) = request.greedy, out
    if not greedy.tokens:
        return
    batch_size = min(greedy.batch_size, arm.max_batch)
    for first in range(0, len(chosen), batch_size):
        print(f"progress {first}/{len(chosen)} decoding", flush=True)
        rows = list(chosen[first : first + batch_size])
        prefixes = [request.tokens.ids[number][: greedy.prefix] for number in rows]
        ids[rows], logprobs[rows] = _continue_batch(arm, greedy, prefixes)


def _continue_batch(arm: Arm, greedy: Greedy, prefixes: Prompts) -> tuple[Any, Any]:
    ids = np.zeros((len(prefixes), greedy.tokens), np.int32)
    logprobs = np.zeros((len(prefixes), greedy.tokens), np.float32)
    if isinstance(arm, Continuing):
        for row, (chosen, logits) in enumerate(arm.continued(prefixes, greedy.tokens)):
            at = logits.log_softmax(dim=-1).gather(1, torch.tensor(chosen)[:, None])[:, 0]
            ids[row], logprobs[row] = chosen, _where_finite(at, logits)
        return ids, logprobs
    decoding = arm.decode([prefix[:-1] for prefix in prefixes], greedy.tokens + 1)
    tokens = torch.tensor([prefix[-1] for prefix in prefixes])
    for position in range(greedy.tokens):
        logits = decoding.step(tokens).to(torch.float32)
        values, tokens = logits.log_softmax(dim=-1).max(dim=-1)
        ids[:, position], logprobs[:, position] = tokens.numpy(), _where_finite(values, logits)
    return ids, logprobs


def _where_finite(values: Tensor, logits: Tensor) -> Any:  # noqa: ANN401 - an array
    """Marks rows of logits that are not all finite by NaN, as prefill marks them by `finite`."""
    return values.where(logits.isfinite().all(dim=-1), torch.nan).numpy()
