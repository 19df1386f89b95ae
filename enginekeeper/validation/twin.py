"""The twins: Hugging Face directories that hold what a recipe, or a checkpoint, means.

The *recipe twin* is the source quantize-dequantized by the recipe in our own code; the pre-quant
vectors, activation scales and KV-cache scales, which calibration learned, come from the
checkpoint, and so do codes and scales where they are another valid rounding (adr/0123). The
*checkpoint twin* is the checkpoint as it is, its config included. Between the two lies what the
export got wrong; between the checkpoint twin and an engine, what the builder did.

A twin is `config.json`, `model.safetensors` (float32, HF names), `twin_extra.safetensors` (the
pre-quant vectors that are not folded) and `twin.json` (what happens to activations and KV cache).
A pre-quant vector is folded into the weight unless activations are quantized after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from enginekeeper.documents import read_json_object
from enginekeeper.validation import kv_cache
from enginekeeper.validation.checkpoint import AssembledLinear, Checkpoint
from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.numerics.mapping import (
    EMBEDDING,
    Geometry,
    LinearPlace,
    Part,
    VectorPlace,
    biases,
    embedding_table,
    head_linear,
    layer_linears,
    norms,
)
from enginekeeper.validation.numerics.reproduction import row_chunks
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import (
    PlannedTensor,
    StoredTensor,
    TensorFile,
    write_tensors,
)
from enginekeeper.validation.twin_arms import CheckpointArm, RecipeArm, TwinArm

SCHEMA = 1

_HEAD = "lm_head"

_WEIGHTS, _EXTRA = "model.safetensors", "twin_extra.safetensors"
_CONFIG, _DESCRIPTION = "config.json", "twin.json"


def write_recipe_twin(source_dir: Path, checkpoint_dir: Path, output_dir: Path) -> None:
    """Writes what the checkpoint's recipe makes of the source; raises InputError subclasses."""
    recipe_twin_of(SourceModel.open(source_dir), Checkpoint.open(checkpoint_dir), output_dir)


def recipe_twin_of(source: SourceModel, checkpoint: Checkpoint, output_dir: Path) -> None:
    """Does the same with what was opened before, as a checkpoint that lies over another is."""
    source.require_sizes()  # rows that are missing would be taken for padding
    _Writer(source, checkpoint, RecipeArm(source, checkpoint)).write("recipe", output_dir)


def write_checkpoint_twin(source_dir: Path, checkpoint_dir: Path, output_dir: Path) -> None:
    """Writes what the checkpoint means, its config as written; raises InputError subclasses."""
    checkpoint_twin_of(SourceModel.open(source_dir), Checkpoint.open(checkpoint_dir), output_dir)


def checkpoint_twin_of(source: SourceModel, checkpoint: Checkpoint, output_dir: Path) -> None:
    """Does the same with what was opened before."""
    _Writer(source, checkpoint, CheckpointArm(source, checkpoint)).write("checkpoint", output_dir)


def is_checkpoint_twin(twin: Path, source: SourceModel, checkpoint: Checkpoint) -> bool:
    """Says whether a twin is what a checkpoint means, number by number, without writing another.

    NaN equals nothing, and -0 is 0.
    """
    return _Writer(source, checkpoint, CheckpointArm(source, checkpoint)).is_in(twin)


@dataclass
class _Writer:
    """Plans the tensors of one twin and writes them one after the other."""

    source: SourceModel
    checkpoint: Checkpoint
    arm: TwinArm
    linears: dict[str, dict[str, Any]] = field(default_factory=dict)
    extra: dict[str, Floats] = field(default_factory=dict)

    def write(self, kind: str, directory: Path) -> None:
        """Writes the directory's files; `twin.json` comes last and marks it whole."""
        directory.mkdir(parents=True, exist_ok=True)
        head = self.arm.head_is_separate()
        write_tensors(directory / _WEIGHTS, self._tensors(head=head))
        write_tensors(
            directory / _EXTRA,
            [PlannedTensor(n, "F32", values.shape, [values]) for n, values in self.extra.items()],
        )
        _write_json(directory / _CONFIG, self.arm.config(tied=not head))
        _write_json(directory / _DESCRIPTION, self._description(kind))

    def is_in(self, directory: Path) -> bool:
        """Says whether a directory holds the numbers that would be written, of whichever arm."""
        head, there = self.arm.head_is_separate(), TensorFile.open(directory / _WEIGHTS)
        if self.arm.config(tied=not head) != read_json_object(directory / _CONFIG):
            return False
        names = set()
        for tensor in self._tensors(head=head):
            if tensor.name not in there or not _holds(there[tensor.name], tensor):
                return False
            names.add(tensor.name)
        extra = TensorFile.open(directory / _EXTRA)
        if names != set(there) or self.extra.keys() != extra.keys():
            return False
        if not all(np.array_equal(extra[name].read(), ours) for name, ours in self.extra.items()):
            return False
        said = read_json_object(directory / _DESCRIPTION)
        return {**said, "arm": None} == {**self._description(""), "arm": None}

    def _description(self, kind: str) -> dict[str, Any]:
        """Returns what happens to activations and cache; after the tensors were gone through."""
        geometry = Geometry.of(self.source.config)
        return {
            "schema": SCHEMA,
            "arm": kind,
            "linears": self.linears,
            "kv_cache": kv_cache.twin_document(self.checkpoint, geometry),
        }

    def _tensors(self, *, head: bool) -> Iterator[PlannedTensor]:
        geometry = Geometry.of(self.source.config)
        vocabulary = self.checkpoint.vocabulary(geometry)
        table = embedding_table(geometry, vocabulary, self.checkpoint.config)
        yield from self._linear(table, {EMBEDDING: geometry.vocabulary})
        for layer in range(geometry.layers):
            for place in layer_linears(layer, geometry):
                yield from self._linear(place, {part.module: part.rows for part in place.parts})
        for vector in (*norms(geometry), *biases(geometry)):
            yield from self._vector(vector)
        if head:
            place = head_linear(geometry, vocabulary)
            yield from self._linear(place, {place.parts[0].module: geometry.vocabulary})

    def _linear(self, place: LinearPlace, rows: dict[str, int]) -> Iterator[PlannedTensor]:
        stored = self.checkpoint.linear(place)
        activation = stored.first.activation
        folded = stored.prequant if activation is None else None
        extra = None
        if stored.prequant is not None and folded is None:
            extra = f"{place.name}.prequant"
            self.extra[extra] = stored.prequant
        for index, part in enumerate(place.parts):
            module = _HEAD if place.name == _HEAD else part.module
            if extra or activation:
                self.linears[module] = {
                    "prequant": extra,
                    "activation": activation.as_dict() if activation else None,
                }
            pieces = self._pieces(place, stored, index, folded, rows[part.module])
            shape = (rows[part.module], place.columns)
            yield PlannedTensor(f"{module}.weight", "F32", shape, pieces)

    def _pieces(
        self,
        place: LinearPlace,
        stored: AssembledLinear,
        index: int,
        folded: Floats | None,
        rows: int,
    ) -> Iterator[Floats]:
        read = None
        for start, stop in row_chunks(rows, place.columns):
            read = read or self.arm.rows(place, stored, index)
            values = read(start, stop)
            yield values if folded is None else values * folded

    def _vector(self, place: VectorPlace) -> Iterator[PlannedTensor]:
        values = self.arm.vector(place)
        if values is None:
            return
        offset = 0
        parts = place.parts or (Part(place.sources[0].removesuffix(".weight"), "", len(values)),)
        for name, part in zip(place.sources, parts, strict=True):
            piece = values[offset : offset + part.rows]
            yield PlannedTensor(name, "F32", piece.shape, [piece])
            offset += part.rows


def _holds(stored: StoredTensor, planned: PlannedTensor) -> bool:
    """Says whether a tensor of a file has the numbers of one that would be written."""
    if stored.shape != planned.shape:
        return False
    start = 0
    for piece in planned.pieces:
        stop = start + len(piece)
        if not np.array_equal(stored.rows(start, stop), piece):
            return False
        start = stop
    return True


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
