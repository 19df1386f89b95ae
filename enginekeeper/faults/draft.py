"""A checkpoint under edit: its config and the tensors of its ranks, changed in memory only.

Rules:

- the checkpoint that is edited is opened for reading and never written to;
- a tensor is loaded when an edit asks for it; what no edit touched is read from the original;
- a draft takes one edit: faults compose by injecting into a copy.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import (
    NAMES,
    PlannedTensor,
    StoredTensor,
    TensorFile,
    write_tensors,
)

Array = npt.NDArray[Any]


class InapplicableError(InputError):
    """A fault cannot be expressed in this checkpoint, or would change nothing in it."""


@dataclass
class Draft:
    """What a checkpoint would be after an edit."""

    base: Checkpoint
    config: dict[str, Any]
    ranks: list[dict[str, StoredTensor | Array]]
    """Per rank, in the file's order; an array where an edit has loaded the tensor."""
    source: SourceModel | None = None
    """The unquantized model, for what has to be quantized anew."""
    cut_bytes: int = 0
    """How many bytes the end of the last rank's file loses when it is written."""
    metadata: dict[str, str] = field(default_factory=dict)
    """The safetensors files' own notes, which no reader of weights looks at."""

    @classmethod
    def open(cls, directory: Path, source: Path | None = None) -> Draft:
        """Opens a checkpoint; raises InputError for one that cannot be read or has stages."""
        base = Checkpoint.open(directory)
        if base.pipeline_parallel != 1:
            raise InapplicableError(
                "faults are put into checkpoints of one pipeline stage only",
                where=str(directory),
                actual=base.pipeline_parallel,
                expected=1,
            )
        return cls(
            base,
            read_json_object(directory / "config.json"),
            [dict(file) for file in base.ranks],
            None if source is None else SourceModel.open(source),
        )

    @property
    def geometry(self) -> Geometry:
        """The sizes the checkpoint states for the whole model, as it was before any edit."""
        config = self.base.config
        heads, hidden = config.num_attention_heads or 1, config.hidden_size or 1
        return Geometry(
            layers=config.num_hidden_layers,
            hidden=hidden,
            intermediate=config.intermediate_size or 4 * hidden,
            heads=heads,
            kv_heads=config.num_key_value_heads or heads,
            head_size=config.head_size or hidden // heads,
            vocabulary=config.vocab_size or 1,
            tied=False,
        )

    @property
    def quantization(self) -> dict[str, Any]:
        """The config's `quantization` block, to be changed in place."""
        block = self.config.setdefault("quantization", {})
        if not isinstance(block, dict):
            raise InapplicableError("the config has no quantization block")
        return block

    def has(self, rank: int, name: str) -> bool:
        """Whether a rank holds a tensor."""
        return name in self.ranks[rank]

    def get(self, rank: int, name: str) -> Array:
        """Returns a tensor that may be changed in place; raises InapplicableError without it."""
        tensor = self.ranks[rank].get(name)
        if tensor is None:
            raise InapplicableError("the checkpoint has no such tensor", where=name)
        if isinstance(tensor, StoredTensor):
            tensor = np.array(tensor.read())
            self.ranks[rank][name] = tensor
        return tensor

    def put(self, rank: int, name: str, values: Array) -> None:
        """Replaces or adds a tensor; its number format is that of the array."""
        self.ranks[rank][name] = np.ascontiguousarray(values)

    def drop(self, rank: int, name: str) -> None:
        """Takes a tensor out; raises InapplicableError without it."""
        if self.ranks[rank].pop(name, None) is None:
            raise InapplicableError("the checkpoint has no such tensor", where=name)

    def fork(self) -> Draft:
        """Returns a second draft that starts where this one is and goes its own way."""
        ranks: list[dict[str, StoredTensor | Array]] = [
            {n: t if isinstance(t, StoredTensor) else t.copy() for n, t in rank.items()}
            for rank in self.ranks
        ]
        return Draft(
            self.base, copy.deepcopy(self.config), ranks, self.source, self.cut_bytes,
            dict(self.metadata),
        )  # fmt: skip

    def differs(self) -> bool:
        """Says whether the config, the tensors, their order or the notes are not the original's."""
        original = read_json_object(self.base.directory / "config.json")
        if self.config != original or self.rewrites_files():
            return True
        pairs = zip(self.ranks, self.base.ranks, strict=True)
        return any(_differs(ours, theirs) for ours, theirs in pairs)

    def write(self, directory: Path) -> None:
        """Writes the whole checkpoint into an existing directory; small files are copied."""
        for path in self.base.directory.iterdir():
            if path.suffix == ".json" and path.name != "config.json":
                (directory / path.name).write_bytes(path.read_bytes())
        self._write_config(directory)
        for rank, tensors in enumerate(self.ranks):
            path = directory / f"rank{rank}.safetensors"
            write_tensors(path, [_planned(n, t) for n, t in tensors.items()], self.metadata)
        if self.cut_bytes:
            with path.open("r+b") as handle:
                handle.truncate(max(path.stat().st_size - self.cut_bytes, 0))

    def overlay(self, directory: Path) -> Checkpoint:
        """Writes what was edited into an existing directory, and opens it over the original.

        The same checkpoint as `write` gives, without copying what no edit touched. What an edit
        does to the files themselves is written in full, so that they are what is read.
        """
        if self.rewrites_files():
            self.write(directory)
            return Checkpoint.open(directory)
        self._write_config(directory)
        files = []
        for rank, tensors in enumerate(self.ranks):
            edited = {n: t for n, t in tensors.items() if not isinstance(t, StoredTensor)}
            path = directory / f"edited{rank}.safetensors"
            write_tensors(path, [_planned(n, t) for n, t in edited.items()])
            own = TensorFile.open(path)
            merged = {n: t if isinstance(t, StoredTensor) else own[n] for n, t in tensors.items()}
            files.append(TensorFile(path, merged))
        return Checkpoint.of(directory, self.config, files)

    def rewrites_files(self) -> bool:
        """Whether the files differ in more than the tensors that were edited."""
        pairs = zip(self.ranks, self.base.ranks, strict=True)
        reordered = any(_in_another_order(ours, theirs) for ours, theirs in pairs)
        return reordered or bool(self.cut_bytes or self.metadata)

    def _write_config(self, directory: Path) -> None:
        text = json.dumps(self.config, indent=4, allow_nan=False)
        (directory / "config.json").write_text(text, encoding="utf-8")


def _in_another_order(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Whether the names that both have are listed in another order."""
    one, other = dict.fromkeys(ours), dict.fromkeys(theirs)
    return [name for name in one if name in other] != [name for name in other if name in one]


def _differs(ours: Mapping[str, StoredTensor | Array], theirs: TensorFile) -> bool:
    if ours.keys() != theirs.keys():
        return True
    edited = ((n, t) for n, t in ours.items() if not isinstance(t, StoredTensor))
    return any(not _same_bytes(array, theirs[name]) for name, array in edited)


def _same_bytes(array: Array, stored: StoredTensor) -> bool:
    if (NAMES[array.dtype], array.shape) != (stored.dtype, stored.shape):
        return False
    return array.tobytes() == stored.read().tobytes()


def _planned(name: str, tensor: StoredTensor | Array) -> PlannedTensor:
    if isinstance(tensor, StoredTensor):
        return PlannedTensor(name, tensor.dtype, tensor.shape, _pieces(tensor))
    return PlannedTensor.of(name, tensor)


def _pieces(tensor: StoredTensor) -> Iterator[Array]:
    yield tensor.read()


def layer_name(layer: int) -> str:
    """Returns how a checkpoint of one stage calls a layer."""
    return f"transformer.layers.{layer}"


def reordered(tensors: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Returns the same tensors in another order."""
    return {name: tensors[name] for name in names}
