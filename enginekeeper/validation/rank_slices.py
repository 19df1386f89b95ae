"""Linears whose ranks lie side by side and have different scales, one for each row.

A converter that quantizes first gives all ranks the scale of the whole row; one that splits first
gives each the scale of its own. Where one of them is wrong, scales do not say which it was: both
are tried. What a rank has is then judged by itself, and the rank is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from enginekeeper.validation.checkpoint import AssembledLinear
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.mapping import LinearPlace
from enginekeeper.validation.source_model import SourceModel


def slices(
    source: SourceModel, place: LinearPlace, stored: AssembledLinear
) -> Iterator[tuple[SourceModel, LinearPlace, AssembledLinear]]:
    """Yields each rank's linear, and a source whose tensors are as wide as that."""
    for rank, shard in enumerate(stored.shards):
        first = rank * shard.columns
        parts = tuple(replace(part, label=f"rank {rank}") for part in place.parts)
        names = [f"{part.module}.weight" for part in place.parts]
        own = {name: source.tensor(name).columns(first, first + shard.columns) for name in names}
        slot = replace(place, parts=parts, columns=shard.columns)
        yield source.with_tensors(own), slot, AssembledLinear(slot, (shard,), shard.prequant)


def with_scales_of(stored: AssembledLinear, rank: int) -> AssembledLinear:
    """Returns the linear as if all ranks had the scales of one."""
    scales = stored.shards[rank].scales
    shards = tuple(replace(shard, scales=scales) for shard in stored.shards)
    return AssembledLinear(stored.place, shards, stored.prequant)


def other_scales(stored: AssembledLinear, rank: int) -> Iterator[Finding]:
    """Yields a finding for each rank whose scales are not those of the one that is right."""
    right = stored.shards[rank].scales
    for number, shard in enumerate(stored.shards):
        wrong = np.flatnonzero((shard.scales != right).any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            here, there = float(shard.scales[row, 0]), float(right[row, 0])
            yield Finding(
                "weights.fidelity",
                "fail",
                f"{stored.place.name} (rank {number})",
                f"{len(wrong)} of {len(right)} scales are not those of rank {rank}, which fit what "
                f"all ranks hold; row {row} has",
                here,
                there,
                "T14",
            )
