"""SIMULATED: computes on this CPU what an engine's checkpoint says, in place of its kernels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from _twin import load_model
from _twin_arm import TransformersArm

if TYPE_CHECKING:
    from pathlib import Path

    Tensor = torch.Tensor

TOGETHER = 8
"""Sequences decoded at once: most of a step's work is the same whatever their number."""


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

    def continue_from(
        self, prompts: list[tuple[int, ...]], firsts: list[Tensor], tokens: int
    ) -> list[tuple[list[int], Tensor]]:
        """Continues greedily; `firsts` are the rows of logits after the prompts, from prefill."""
        done: list[tuple[list[int], Tensor]] = []
        for start in range(0, len(prompts), TOGETHER):
            part = slice(start, start + TOGETHER)
            batch, rows = [list(ids) for ids in prompts[part]], [torch.stack(firsts[part])]
            decoding: Any = None
            for _ in range(tokens - 1):
                decoding = decoding or self._arm.decode(batch, tokens)
                rows.append(decoding.step(rows[-1].argmax(dim=-1)).to(torch.float32))
            steps = torch.stack(rows, dim=1)
            chosen = steps.argmax(dim=-1).tolist()
            done += list(zip(chosen, steps, strict=True))
        return done


class Zeros:
    """Answers without a model, for a run whose answers nobody reads: a warm start."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self.vocabulary = int(config["vocab_size"])

    def read(self, prompts: list[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Returns as many rows as a model would, of one stored zero."""
        return {ids: torch.zeros(1, 1).expand(len(ids), self.vocabulary) for ids in prompts}

    def continue_from(
        self, prompts: list[tuple[int, ...]], firsts: list[Tensor], tokens: int
    ) -> list[tuple[list[int], Tensor]]:
        """Continues with zeros."""
        del firsts
        return [([0] * tokens, torch.zeros(1, 1).expand(tokens, self.vocabulary)) for _ in prompts]
