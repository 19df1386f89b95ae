"""The probe suite in a model's own tokens: what every arm is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginekeeper.documents import read_json
from enginekeeper.errors import InputError
from registry.digests import Digest, digest_document

SHORTEST = 2
"""One token to predict from and one to predict: a shorter prompt has no scored position."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompt as the ids that every arm sees."""

    id: str
    stratum: str
    ids: tuple[int, ...]

    @property
    def positions(self) -> int:
        """How many of its tokens are predicted from tokens before them."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class TokenizedSuite:
    """The prompts in scoring order, with the size of the vocabulary they index."""

    prompts: tuple[TokenizedPrompt, ...]
    vocab_size: int

    @cached_property
    def digest(self) -> Digest:
        """Names the ids: two tokenizers that cut a text alike give the same name."""
        prompts = [{"id": p.id, "stratum": p.stratum, "ids": list(p.ids)} for p in self.prompts]
        return digest_document({"prompts": prompts, "vocab_size": self.vocab_size}, "ek-tokens-v1")

    @cached_property
    def strata(self) -> NDArray[np.int64]:
        """A number for each prompt's kind of text, equal where the kinds are."""
        numbers: dict[str, int] = {}
        labels = [numbers.setdefault(prompt.stratum, len(numbers)) for prompt in self.prompts]
        return np.asarray(labels, dtype=np.int64)

    @property
    def positions(self) -> int:
        """How many positions are scored in all."""
        return sum(prompt.positions for prompt in self.prompts)

    def only(self, chosen: Sequence[int]) -> TokenizedSuite:
        """Returns some of the prompts, in the order they are named in."""
        return TokenizedSuite(tuple(self.prompts[one] for one in chosen), self.vocab_size)


def load_tokens(path: Path) -> TokenizedSuite:
    """Reads a tokens file; raises InputError when an id is not in the vocabulary."""
    document = read_json(path)
    try:
        vocab_size = document["vocab_size"]
        prompts = tuple(
            TokenizedPrompt(item["id"], item["stratum"], tuple(item["ids"]))
            for item in document["prompts"]
        )
    except (TypeError, KeyError) as error:
        raise InputError("not a tokens file", where=str(path), actual=repr(error)) from error
    if not prompts or not isinstance(vocab_size, int):
        raise InputError("the tokens file has no prompts or no vocabulary", where=str(path))
    for prompt in prompts:
        _check(prompt, vocab_size, f"{path}: {prompt.id}")
    return TokenizedSuite(prompts, vocab_size)


def _check(prompt: TokenizedPrompt, vocab_size: int, where: str) -> None:
    if len(prompt.ids) < SHORTEST:
        raise InputError("a prompt is too short to score", where=where, actual=len(prompt.ids))
    outside = [token for token in prompt.ids if not _is_token(token, vocab_size)]
    if outside:
        raise InputError(
            "a token is not in the model's vocabulary",
            where=where,
            actual=outside[0],
            expected=f"0 to {vocab_size - 1}",
            remedy="tokenize with the model's own tokenizer",
        )


def _is_token(token: Any, vocab_size: int) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < vocab_size
