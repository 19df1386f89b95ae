"""SIMULATED: computes on this CPU what an engine's checkpoint says, in place of its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from _twin import load_model
from score_twin import TransformersArm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Tensor = torch.Tensor
    Ids = Sequence[int]


class Executor:
    """A model that reads prompts whole and continues them through its cache."""

    def __init__(self, directory: Path) -> None:
        self._arm = TransformersArm(load_model(directory))
        self.vocabulary = self._arm.vocabulary

    def read(self, prompts: list[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Returns the logits of every position of each prompt.

        A causal model says of a prompt's beginning what it says of it inside the prompt, so that
        only prompts which begin no other one are run.
        """
        rows: dict[tuple[int, ...], Tensor] = {}
        longest: list[tuple[int, ...]] = []
        for ids in sorted(set(prompts), key=len, reverse=True):
            whole = next((one for one in longest if one[: len(ids)] == ids), None)
            if whole is None:
                longest.append(ids)
                whole = ids
                rows[ids] = self._arm.logits(self._arm.states([ids])[0]).to(torch.float32)
            rows[ids] = rows[whole][: len(ids)]
        return rows

    def continue_from(self, ids: Ids, first: Tensor, tokens: int) -> tuple[list[int], Tensor]:
        """Continues greedily; `first` is the row of logits after the prompt, from prefill."""
        chosen, rows = [int(first.argmax())], [first]
        if tokens > 1:
            decoding: Any = self._arm.decode([list(ids)], tokens)
            while len(chosen) < tokens:
                row = decoding.step(torch.tensor([chosen[-1]]))[0].to(torch.float32)
                rows.append(row)
                chosen.append(int(row.argmax()))
        return chosen, torch.stack(rows)
