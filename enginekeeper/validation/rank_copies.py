"""What every tensor-parallel rank holds whole is the same on all of them.

The other audits read it from the first rank; a rank with another norm or another pre-quant vector
computes something else with weights that are right. Copies are compared bit by bit: norms, biases
that are added once, tables that are not split, pre-quant vectors of linears that are split by rows,
and key and value heads where there are fewer of them than ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.checkpoint import Checkpoint, rows_per_rank
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.linears import MisshapenLinearError
from enginekeeper.validation.numerics.mapping import (
    Geometry,
    LinearPlace,
    biases,
    embedding_table,
    head_linear,
    layer_linears,
    norms,
)
from enginekeeper.validation.numerics.recipes import UnknownRecipeError
from enginekeeper.validation.numerics.reproduction import row_chunks
from enginekeeper.validation.tensor_files import StoredTensor


def findings(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields a finding for every tensor that one rank holds otherwise than the first."""
    if checkpoint.tensor_parallel == 1:
        return
    for layer, name in _names(checkpoint, geometry):
        slices = checkpoint.tensors(layer, name)
        if 0 < len(slices) < checkpoint.tensor_parallel:
            yield _some_only(name, len(slices), checkpoint.tensor_parallel)
            continue
        for rank, other in enumerate(slices[1:], start=1):
            if not _same(slices[0], other):
                yield _finding(name, rank, 0)
    for layer in range(geometry.layers):
        for place in layer_linears(layer, geometry):
            yield from _heads(checkpoint, place)


def _names(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[tuple[int | None, str]]:
    """Yields the tensors that are not split, with their layers."""
    for vector in (*norms(geometry), *biases(geometry)):
        if vector.split is None:
            yield vector.layer, vector.name
    vocabulary = checkpoint.vocabulary(geometry)
    table = embedding_table(geometry, vocabulary, checkpoint.config)
    if table.replicated:
        yield table.layer, f"{table.name}.weight"
    linears = [p for layer in range(geometry.layers) for p in layer_linears(layer, geometry)]
    for place in (*linears, head_linear(geometry, vocabulary)):
        if place.split == "column":
            yield place.layer, f"{place.name}.prequant_scaling_factor"


def _same(first: StoredTensor, other: StoredTensor) -> bool:
    if (first.dtype, first.shape) != (other.dtype, other.shape):
        return False
    if not first.shape[1:]:  # a vector or a number
        return _equal(first.read(), other.read())
    chunks = row_chunks(first.shape[0], int(np.prod(first.shape[1:])))
    return all(_equal(first.rows(*chunk), other.rows(*chunk)) for chunk in chunks)


def _equal(ours: npt.NDArray[np.generic], theirs: npt.NDArray[np.generic]) -> bool:
    return ours.tobytes() == theirs.tobytes()  # NaN is itself here


def _heads(checkpoint: Checkpoint, place: LinearPlace) -> Iterator[Finding]:
    """Compares the ranks that hold copies of one key or value head."""
    ranks = checkpoint.tensor_parallel
    if not any(part.heads is not None and part.heads < ranks for part in place.parts):
        return
    try:
        shards = checkpoint.linear(place).shards
    except (MisshapenLinearError, UnknownRecipeError):
        return  # the weight audit says so
    before = 0
    for part in place.parts:
        rows = rows_per_rank(part, ranks)
        if part.heads is not None and part.heads < ranks:
            weights = [shard.dequantize(before, before + rows) for shard in shards]
            copies = ranks // part.heads
            for first in range(0, ranks, copies):
                alike = range(first, min(first + copies, ranks))
                yield from _copies(place, part.label, alike, weights)
        before += rows


def _copies(
    place: LinearPlace, label: str, ranks: Sequence[int], weights: Sequence[npt.NDArray[np.float32]]
) -> Iterator[Finding]:
    for rank in ranks[1:]:
        if not _equal(weights[ranks[0]], weights[rank]):
            yield _finding(f"{place.name}.weight ({label})", rank, ranks[0])


def _some_only(where: str, found: int, ranks: int) -> Finding:
    message = f"only {found} of {ranks} ranks hold it"
    return Finding("weights.ranks", "fail", where, message, found, ranks, "T14")


def _finding(where: str, rank: int, first: int) -> Finding:
    return Finding(
        "weights.ranks",
        "fail",
        where,
        f"rank {rank} holds other numbers than rank {first}, and both should hold the same",
        f"rank {rank}",
        f"as on rank {first}",
        "T14",
    )
