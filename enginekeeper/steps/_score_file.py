"""The score file: what one arm says about every token of a suite, as arrays.

Prompts come in the order of the tokens file; position t of a prompt with L ids scores id t+1, so a
prompt has L-1 positions and all are laid end to end. Log-probabilities are natural logarithms over
the whole vocabulary.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from _step import Refusal
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

SCHEMA = "1"


@dataclass(frozen=True)
class Tokens:
    """The tokens file: prompts in order."""

    ids: tuple[tuple[int, ...], ...]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Returns where each prompt's positions start, and the total at the end."""
        return np.cumsum([0, *(len(prompt) - 1 for prompt in self.ids)], dtype=np.int64)

    def chosen(self, numbers: Sequence[int]) -> list[int]:
        """Returns the prompts that a job names; refuses none, and numbers that no prompt has."""
        if not numbers or not set(numbers) <= set(range(len(self.ids))):
            raise Refusal("job", "no such prompts", where="prompts", actual=numbers)
        return list(numbers)


def read_tokens(path: Path, vocabulary: int) -> Tokens:
    """Reads a tokens file; refuses ids the model has no row for, and prompts without a position."""
    document = json.loads(path.read_text(encoding="utf-8"))
    prompts = tuple(tuple(prompt["ids"]) for prompt in document["prompts"])
    for prompt, ids in zip(document["prompts"], prompts, strict=True):
        if len(ids) < 2:  # noqa: PLR2004 - one to read, one to predict
            raise Refusal("prompt-too-short", "a prompt needs two tokens", where=prompt["id"])
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise Refusal(
                "vocabulary-mismatch",
                "a token is not in the model's vocabulary",
                where=f"{path}: {prompt['id']}",
                expected=f"ids below {vocabulary}",
                actual=max(ids),
                remedy="tokenize the suite with this model's own tokenizer",
            )
    if not prompts:
        raise Refusal("no-prompts", "the tokens file holds no prompts", where=str(path))
    return Tokens(prompts)


def read_targets(paths: Mapping[str, str], positions: int, vocabulary: int) -> Arrays:
    """Returns by name the token ids whose log-probabilities another arm's file asks for."""
    targets = {}
    for name, path in paths.items():
        try:
            ids = load_file(path)["top_ids"].astype(np.int64)
        except (OSError, KeyError, SafetensorError) as error:
            raise Refusal(
                "targets-unreadable", f"not a score file: {error}", where=f"targets.{name}: {path}"
            ) from None
        if ids.shape[0] != positions or (ids.size and not 0 <= ids.min() <= ids.max() < vocabulary):
            raise Refusal(
                "targets-mismatch",
                "the target scores are of other tokens",
                where=f"targets.{name}: {path}",
                expected=f"{positions} positions, ids below {vocabulary}",
                actual=f"{ids.shape[0]} positions",
                remedy="score every arm on the same tokens file",
            )
        targets[name] = ids
    return targets


def write_scores(path: Path, arrays: Arrays, *, arm: str, meta: Mapping[str, Any]) -> None:
    """Writes a score file whole or not at all."""
    metadata = {"schema": SCHEMA, "arm": arm, "meta": json.dumps(meta, sort_keys=True)}
    write_arrays(path, arrays, metadata)


def write_arrays(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Writes a file of arrays whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(arrays, partial, metadata)
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(path)
