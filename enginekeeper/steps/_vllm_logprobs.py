"""Turns vLLM's per-position dictionaries into the arrays of a score file.

vLLM answers `prompt_logprobs=K` with one dictionary per position: the K best tokens *and* the
token the prompt really holds, which is a (K+1)-th entry unless it is one of the K. The entry of
position i describes the prediction of token i from the tokens before it, so the first is None and
entry t+1 belongs to scored position t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _step import Refusal


@dataclass(frozen=True)
class Rows:
    """The scored positions of one prompt, in order."""

    top_ids: np.ndarray
    top_logprobs: np.ndarray
    target_logprobs: np.ndarray
    finite: np.ndarray


def prompt_rows(
    ids: Sequence[int], entries: Sequence[Mapping[int, Any] | None], top_k: int
) -> Rows:
    """Separates the K best tokens of each position from the prompt's own next token."""
    if len(entries) != len(ids):
        raise Refusal(
            "unexpected-output",
            "vLLM returned another number of prompt log-probabilities than the prompt has tokens",
            expected=len(ids),
            actual=len(entries),
        )
    count = len(ids) - 1
    rows = Rows(
        np.tile(np.arange(top_k, dtype=np.int32), (count, 1)),
        np.full((count, top_k), np.nan, dtype=np.float32),
        np.full(count, np.nan, dtype=np.float32),
        np.zeros(count, dtype=np.uint8),
    )
    for t in range(count):
        entry = entries[t + 1]
        if entry is None or ids[t + 1] not in entry:
            raise Refusal(
                "unexpected-output", "vLLM gave no log-probability for a prompt token", where=f"{t}"
            )
        _fill(rows, t, entry, ids[t + 1])
    return rows


def _fill(rows: Rows, t: int, entry: Mapping[int, Any], target: int) -> None:
    """Writes one position; a row with a non-finite value stays NaN and is marked, never dropped."""
    top_k = rows.top_ids.shape[1]
    if not all(math.isfinite(item.logprob) for item in entry.values()):
        return
    best = {token: item.logprob for token, item in entry.items()}
    rows.target_logprobs[t] = best[target]
    if len(best) == top_k + 1:
        del best[target]
    if len(best) != top_k:
        raise Refusal(
            "unexpected-output",
            "vLLM returned another number of log-probabilities than was asked for",
            where=f"position {t}",
            expected=f"{top_k} or {top_k + 1}",
            actual=len(entry),
        )
    ordered = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    rows.top_ids[t] = [token for token, _ in ordered]
    rows.top_logprobs[t] = [logprob for _, logprob in ordered]
    rows.finite[t] = 1


def greedy_row(
    ids: Sequence[int], entries: Sequence[Mapping[int, Any]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pads one continuation to `length`: -1 and 0.0 after the end-of-sequence token."""
    padded = np.full(length, -1, dtype=np.int32)
    logprobs = np.zeros(length, dtype=np.float32)
    padded[: len(ids)] = ids
    logprobs[: len(ids)] = [entry[token].logprob for token, entry in zip(ids, entries, strict=True)]
    return padded, logprobs
