"""The calibration text as batches of token ids, the same ones for the same seed.

The samples are drawn without replacement by Python's Mersenne Twister, whose sequence is part of
the language's contract; torch's generators promise no stability between releases.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _step import Refusal
from _tokenizers import ids_of


@dataclass(frozen=True)
class CalibrationRequest:
    """Which text is run through the model, and how much of it."""

    path: Path
    samples: int
    max_tokens: int
    """Tokens kept of each sample, counted from its start."""
    seed: int


def read_texts(path: Path) -> list[str]:
    """Returns the `text` of every line of a JSON Lines file, in file order."""
    if not path.is_file():
        raise Refusal("calibration-missing", "the calibration text does not exist", where=str(path))
    return [_text_of(line, f"{path}:{number}") for number, line in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            yield number, line


def _text_of(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (json.JSONDecodeError, KeyError, TypeError) as fault:
        raise Refusal(
            "calibration-malformed",
            f"not a JSON object with a text: {fault}",
            where=where,
            expected='{"text": "..."}',
            actual=line[:80],
        ) from fault
    if not isinstance(text, str) or not text.strip():
        raise Refusal(
            "calibration-malformed", "the text is empty", where=where, actual=repr(text)[:80]
        )
    return text


def batches(request: CalibrationRequest, tokenizer: Any, vocab_size: int) -> list[torch.Tensor]:  # noqa: ANN401
    """Returns one [1, T] tensor of ids per sample; refuses text the model has no embeddings for."""
    texts = read_texts(request.path)
    if request.samples > len(texts):
        raise Refusal(
            "calibration-too-small",
            "the calibration text has fewer samples than asked for",
            where=str(request.path),
            expected=f"at least {request.samples} samples",
            actual=f"{len(texts)} samples",
            remedy="lower calibration.samples, or name a larger file",
        )
    chosen = random.Random(request.seed).sample(texts, request.samples)  # noqa: S311 - not a secret
    tokenized = [ids_of(tokenizer, one, request.path)[: request.max_tokens] for one in chosen]
    highest = max((max(ids) for ids in tokenized if ids), default=0)
    if highest >= vocab_size:
        raise Refusal(
            "tokenizer-mismatch",
            "the tokenizer makes ids the model has no embeddings for",
            where="calibration",
            expected=f"ids below {vocab_size}",
            actual=highest,
            remedy="use the tokenizer the model was published with",
        )
    return [torch.tensor([ids], dtype=torch.long) for ids in tokenized if ids]
