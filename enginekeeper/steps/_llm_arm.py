"""An engine behind the LLM API as an arm of the comparison.

There are two ways to have its logits at every position of a prompt:

- *generation*: every beginning of the prompt is a request for one token, whose logits are asked
  for. It works with the bytes that are shipped: they are built without context logits;
- *context*: the prompt is one request whose context logits are asked for. It needs an engine that
  was built to give them: the validation twin.

Continuations are one request each, so all but their first token comes from the decode path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _llm_api import LlmApi

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

WAYS = ("generation", "context")


class LlmArm:
    """Logits and continuations of an engine; its states are its logits already."""

    name = "engine"

    def __init__(self, api: LlmApi, way: str, vocabulary: int, max_batch: int) -> None:
        self._api = api
        self._read = {"generation": self._beginnings, "context": self._whole}[way]
        self.vocabulary = vocabulary
        self.max_batch = max_batch

    def states(self, prompts: Prompts) -> list[Tensor]:
        """Returns the logits of every position of each prompt, but its last."""
        return self._read(prompts)

    def logits(self, states: Tensor) -> Tensor:
        """Returns what it is given."""
        return states

    def continued(self, prompts: Prompts, tokens: int) -> list[tuple[tuple[int, ...], Tensor]]:
        """Returns the tokens that were chosen after each prompt, and their logits."""
        answers = self._api.ask(prompts, tokens, return_generation_logits=True)
        for answer in answers:
            if len(answer.ids) != tokens or len(answer.generated) != tokens:
                raise Refusal(
                    "unexpected-output", "a continuation has another length than was asked for",
                    expected=tokens,
                    actual=f"{len(answer.ids)} tokens, {len(answer.generated)} rows of logits, "
                    f"ended by {answer.finish}",
                )  # fmt: skip
        return [(answer.ids, answer.generated) for answer in answers]

    def _beginnings(self, prompts: Prompts) -> list[Tensor]:
        beginnings = [ids[:length] for ids in prompts for length in range(1, len(ids))]
        answers = self._api.ask(beginnings, 1, return_generation_logits=True)
        rows = torch.cat([answer.generated[:1] for answer in answers])
        return list(rows.split([len(ids) - 1 for ids in prompts]))

    def _whole(self, prompts: Prompts) -> list[Tensor]:
        answers = self._api.ask(prompts, 1, return_context_logits=True)
        for ids, answer in zip(prompts, answers, strict=True):
            if len(answer.read) != len(ids):
                raise Refusal(
                    "unexpected-output", "there are not as many context logits as prompt tokens",
                    expected=len(ids), actual=len(answer.read),
                    remedy="blocks of the cache that are reused give none: it must be off",
                )  # fmt: skip
        return [answer.read[:-1] for answer in answers]
