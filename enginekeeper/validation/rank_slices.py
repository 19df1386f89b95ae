"""A linear whose ranks lie side by side and have scales of their own: a linear for each rank.

Some converters split first and quantize what each rank has. One scale for a whole row would then
be a wrong one for both halves, and a rank whose scales are off would be half as far off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from enginekeeper.validation.checkpoint import AssembledLinear
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
