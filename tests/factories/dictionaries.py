"""Fault dictionaries of random directions, and engines that were moved along some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from enginekeeper.validation.dictionary import Dictionary
from enginekeeper.validation.scores import Scores

NAMES = tuple(f"model.layers.{layer}.{part}" for layer in range(6) for part in ("v", "o", "down"))

MOST = 9
"""Positions of a prompt that a dictionary is over: fewer than some prompts have."""


def dictionary_of(twin: Scores, prompts: tuple[int, ...]) -> Dictionary:
    """Directions of no relation to each other, over the beginnings of some prompts."""
    spans = tuple(twin.spans())
    lengths = tuple(min(spans[one].stop - spans[one].start, MOST) for one in prompts)
    shape = (len(NAMES), sum(lengths), twin.top_logprobs.shape[1])
    atoms = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    return Dictionary(NAMES, prompts, lengths, atoms)


def rows_of(
    twin: Scores, dictionary: Dictionary, prompts: tuple[int, ...] | None = None
) -> NDArray[np.int64]:
    """Positions of the suite that the dictionary is over, of some prompts or of all its own."""
    starts = [span.start for span in twin.spans()]
    sizes = dict(zip(dictionary.prompts, dictionary.lengths, strict=True))
    wanted = dictionary.prompts if prompts is None else prompts
    return np.concatenate([np.arange(starts[one], starts[one] + sizes[one]) for one in wanted])


def engine_of(
    twin: Scores,
    dictionary: Dictionary,
    gains: Mapping[int, float],
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> Scores:
    """The twin, moved along some directions, with noise everywhere."""
    at = twin.top_logprobs.astype(np.float64)
    at += noise * np.random.default_rng(seed).standard_normal(at.shape)
    for atom, gain in gains.items():
        at[rows_of(twin, dictionary)] += gain * dictionary.atoms[atom]
    return replace(twin, at={**twin.at, "twin": at.astype(np.float32)})
