"""Which rank's slices a file holds: one under another rank's name is told as one fault.

It makes every split tensor wrong at once, and each of them would be named for itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from enginekeeper.validation.checkpoint import Checkpoint, rank_file, rows_per_rank
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.numerics.linears import MisshapenLinearError
from enginekeeper.validation.numerics.mapping import Geometry, layer_linears
from enginekeeper.validation.source_model import SourceModel

_ROWS = 64
"""Rows of the query projection that are looked at: those of another slice are unlike them."""

_ALIKE = 0.7
"""Cosine of what is stored and what was quantized, whatever the format; of others it is near 0."""


def findings(source: SourceModel, checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields a finding for every rank file that holds what belongs into another one."""
    layers = checkpoint.layers_per_stage * checkpoint.pipeline_parallel
    uneven = layers > geometry.layers or geometry.heads % checkpoint.tensor_parallel
    if len(checkpoint.ranks) == 1 or uneven:
        return  # the config audit says what does not fit
    try:
        stored = list(_stored(checkpoint, geometry))
    except MisshapenLinearError:
        return  # the weight audit says so
    slices = list(_slices(source, checkpoint, geometry))
    for rank, ours in enumerate(stored):
        alike = [_cosine(ours, one) for one in slices]
        best = int(np.argmax(alike))
        if alike[best] >= _ALIKE and alike[rank] < alike[best] / 2:
            yield Finding(
                "weights.ranks",
                "fail",
                rank_file(rank),
                f"the file holds what belongs into {rank_file(best)}",
                f"the slices of rank {best}",
                f"the slices of rank {rank}",
                "T14",
            )


def _stored(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Floats]:
    """Yields of every rank some rows of its first query projection."""
    for stage in range(checkpoint.pipeline_parallel):
        place = next(layer_linears(stage * checkpoint.layers_per_stage, geometry))
        for shard in checkpoint.linear(place).shards:
            rows = shard.dequantize(0, min(_ROWS, shard.rows))
            yield rows if shard.prequant is None else rows * shard.prequant


def _slices(source: SourceModel, checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Floats]:
    """Yields the source's rows for each of them."""
    for stage in range(checkpoint.pipeline_parallel):
        place = next(layer_linears(stage * checkpoint.layers_per_stage, geometry))
        query = place.parts[0]
        height = rows_per_rank(query, checkpoint.tensor_parallel)
        for rank in range(checkpoint.tensor_parallel):
            first = rank * height
            yield source.rows(f"{query.module}.weight", first, first + min(_ROWS, height))


def _cosine(ours: Floats, theirs: Floats) -> float:
    """Returns how alike two slices are, as far as both have rows; 0 where one is not finite."""
    height = min(len(ours), len(theirs))
    one, other = (side[:height].astype(np.float64).ravel() for side in (ours, theirs))
    with np.errstate(invalid="ignore", over="ignore"):
        found = float(one @ other) / float(np.linalg.norm(one) * np.linalg.norm(other) or 1)
    return found if np.isfinite(found) else 0.0
