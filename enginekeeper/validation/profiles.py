"""What a verdict keeps for whoever looks closer: by position, by window, and what could be seen.

Nothing here decides anything; it is what a report is drawn from. `places` judges by the same
buckets of positions and classes of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginekeeper.validation.checks import Limit, rounded
from enginekeeper.validation.divergence import Comparison, Window
from enginekeeper.validation.pieces import Pieces
from enginekeeper.validation.scores import Scores

EDGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Where buckets of positions begin; damage that grows with the context shows across them."""

WORST = 3
"""How many windows are kept, each of another prompt."""

DOSES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
"""Divergences, in limits, that the power is computed at."""

NEAR = 0.25
"""Of the limit: from here on a divergence is taken for what a fault's would look like."""

CHANCE = 0.8
"""Of what is called detectable: four runs of five."""

VARIATION = 0.7
"""The least variation between prompts that a fault is assumed to have: 0.34 to 0.76 were measured
on engines of SmolLM2-135M that were wrong."""


def by_position(comparison: Comparison, noise: Comparison | None) -> list[dict[str, Any]]:
    """Returns the mean divergence by position in the prompt, and that of noise where measured."""
    rows = []
    for start, stop, there in buckets(comparison.offsets):
        here = there & comparison.kept
        if not here.any():
            continue
        rows.append(
            {
                "from": start,
                "to": None if stop is None else stop - 1,
                "positions": int(here.sum()),
                "kl": rounded(float(comparison.kl[here].mean())),
                "p99": rounded(float(np.quantile(comparison.kl[here], 0.99))),
                "noise": None if noise is None else rounded(_mean(noise, here)),
            }
        )
    return rows


def _mean(noise: Comparison, here: NDArray[np.bool_]) -> float | None:
    both = here & noise.kept
    return float(noise.kl[both].mean()) if both.any() else None


def buckets(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int | None, NDArray[np.bool_]]]:
    """Yields (first, end, which positions) by the place in the prompt; the last has no end."""
    places = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], np.diff(offsets))
    for start, stop in zip(EDGES, (*EDGES[1:], None), strict=True):
        yield start, stop, (places >= start) & ((places < stop) if stop else True)


def classes(ids: NDArray[np.int64], pieces: Pieces) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yields the classes of tokens by name, and where they are."""
    kinds = {int(one): pieces.kind(int(one)) for one in np.unique(ids)}
    labels = np.asarray([kinds[int(one)] for one in ids])
    for kind in sorted(set(kinds.values())):
        yield kind, labels == kind


def power(comparison: Comparison, limit: Limit) -> list[dict[str, Any]]:
    """Returns the chance that this run would have failed an engine, by its divergence.

    Of the bounds for a whole suite, by the normal approximation, for a divergence that varies
    between prompts as this one does, or by VARIATION where this one varies less or is mere noise.
    """
    spread = _spread(comparison, limit)
    if spread is None:
        return []
    needed = _needed(limit)
    from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time; a plan judges nothing

    rows = []
    for dose in DOSES:
        chance = float(stats.norm.cdf((dose - 1.0) / (dose * spread) - needed))
        rows.append({"kl": rounded(dose * limit.value), "fails": rounded(chance)})
    return rows


def detectable(comparison: Comparison, limit: Limit) -> float | None:
    """Returns the divergence that `power` puts at a chance of CHANCE; None where no size is."""
    spread = _spread(comparison, limit)
    if spread is None:
        return None
    from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time; a plan judges nothing

    left = 1.0 - (_needed(limit) + float(stats.norm.ppf(CHANCE))) * spread
    return limit.value / left if left > 0.0 else None


def _needed(limit: Limit) -> float:
    from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time; a plan judges nothing

    return float(stats.norm.ppf(limit.failure_confidence))


def _spread(comparison: Comparison, limit: Limit) -> float | None:
    """Returns the standard error of a fault's mean, as a share of it; None of no prompts.

    How noise far below the limit varies says nothing of how a fault would.
    """
    used = comparison.sizes > 0
    means = comparison.per_prompt(comparison.kl)[used] / comparison.sizes[used]
    if len(means) == 0:
        return None
    near = means.mean() > NEAR * limit.value
    measured = float(means.std() / means.mean()) if near else 0.0
    return max(measured, VARIATION) / math.sqrt(len(means))


def worst_windows(
    comparison: Comparison, arms: Mapping[str, Scores], pieces: Pieces
) -> list[dict[str, Any]]:
    """Returns the worst windows of different prompts, with what each arm liked best there."""
    windows = sorted(comparison.windows(), key=lambda window: -window.kl)[:WORST]
    numbers = {prompt.id: number for number, prompt in enumerate(comparison.tokens.prompts)}
    return [
        {
            "prompt": window.prompt,
            "stratum": window.stratum,
            "start": window.start,
            "kl": rounded(window.kl),
            "rows": _rows(comparison, arms, pieces, window, numbers[window.prompt]),
        }
        for window in windows
    ]


def _rows(
    comparison: Comparison,
    arms: Mapping[str, Scores],
    pieces: Pieces,
    window: Window,
    number: int,
) -> list[dict[str, Any]]:
    ids = comparison.tokens.prompts[number].ids
    first = int(comparison.offsets[number])
    return [
        {
            "next": pieces.text(ids[at + 1]),
            **{name: pieces.text(int(arm.top_ids[first + at, 0])) for name, arm in arms.items()},
            "kl": rounded(float(comparison.kl[first + at])),
        }
        for at in range(window.start, window.stop)
    ]


def by_token_class(comparison: Comparison, pieces: Pieces) -> dict[str, dict[str, Any]]:
    """Returns the mean divergence by the class of the token that follows; of known texts only."""
    if not pieces.texts:
        return {}
    following = np.concatenate([prompt.ids[1:] for prompt in comparison.tokens.prompts])
    found: dict[str, dict[str, Any]] = {}
    for label, there in classes(following, pieces):
        here = there & comparison.kept
        if here.any():
            mean = float(comparison.kl[here].mean())
            found[label] = {"positions": int(here.sum()), "kl": rounded(mean)}
    return found
