"""The unquantized model: a Hugging Face directory, read tensor by tensor and never whole.

A directory is accepted only when every tensor its index names is there and every shard is as
long as its header says; the numbers themselves are looked at when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ml_dtypes import bfloat16

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.numerics.formats import Floats, widen
from enginekeeper.validation.numerics.mapping import EMBEDDING, Geometry, layer_linears
from enginekeeper.validation.numerics.reproduction import row_chunks
from enginekeeper.validation.tensor_files import StoredTensor, TensorFile

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_UNSIGNED = np.uint16(0x7FFF)
_FLOATS = ("BF16", "F16", "F32", "F64")

_SIZES = (
    "vocab_size, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim"
)
"""What decides the shapes of all tensors."""


class UnusableModelError(InputError):
    """A model directory lacks a file or a tensor, or holds numbers that are none."""


@dataclass(frozen=True)
class SourceModel:
    """The config and the tensors of a Hugging Face model directory."""

    directory: Path
    config: HfConfig
    tensors: Mapping[str, StoredTensor]
    _largest: dict[str, float] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, directory: Path) -> SourceModel:
        """Reads the config and all headers; raises InputError for what cannot be used."""
        path = directory / "config.json"
        return cls(directory, HfConfig.of(read_json_object(path), str(path)), _tensors(directory))

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def tensor(self, name: str) -> StoredTensor:
        """Returns a tensor of floats by its name; raises UnusableModelError when it is missing."""
        tensor = self.tensors.get(name)
        if tensor is None:
            tied = "lm_head.weight, or tie_word_embeddings: true in config.json"
            raise UnusableModelError(
                "a tensor is missing",
                where=f"{self.directory}: {name}",
                expected=tied if name == "lm_head.weight" else None,
            )
        if tensor.dtype not in _FLOATS:
            raise UnusableModelError(
                "the source model is not unquantized",
                where=f"{self.directory}: {name}",
                actual=tensor.dtype,
                expected=", ".join(_FLOATS),
            )
        return tensor

    def with_tensors(self, tensors: Mapping[str, StoredTensor]) -> SourceModel:
        """Returns the model with other tensors in the place of some."""
        return SourceModel(self.directory, self.config, {**self.tensors, **tensors})

    def require_sizes(self) -> None:
        """Raises UnusableModelError for a tensor that is not of the size that the config says.

        A tensor that is missing is refused by whoever needs it.
        """
        for name, shape in _sizes(Geometry.of(self.config)):
            if name in self and self.tensor(name).shape != shape:
                raise UnusableModelError(
                    "the source's tensor is not of the size that its config says",
                    where=f"{self.directory}: {name}",
                    actual=list(self.tensor(name).shape),
                    expected=list(shape),
                    remedy=f"Download the model again: its config ({_SIZES}) is another model's.",
                )

    def height(self, name: str) -> int:
        """Returns how many rows a tensor has."""
        return self.tensor(name).shape[0]

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Returns rows as float32; raises UnusableModelError when one of them is not finite."""
        return widen(self.stored_rows(name, start, self.height(name) if stop is None else stop))

    def stored_rows(
        self, name: str, start: int, stop: int, columns: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[Any]:
        """Returns rows, or some columns of them, in the format of the file; raises as `rows` does.

        What is not returned is not looked at.
        """
        stored = self.tensor(name).rows(start, stop)
        if columns is not None:
            stored = stored[:, columns]
        self._finite(name, stored)
        return stored

    def largest(self, name: str) -> float:
        """Returns a tensor's largest magnitude, looked for once; raises as `rows` does."""
        if name not in self._largest:
            tensor = self.tensor(name)
            chunks = row_chunks(tensor.shape[0], math.prod(tensor.shape[1:]))
            self._largest[name] = max(self._finite(name, tensor.rows(*chunk)) for chunk in chunks)
        return self._largest[name]

    def _finite(self, name: str, stored: npt.NDArray[Any]) -> float:
        """Returns the largest magnitude of stored rows; raises as `rows` does."""
        magnitude = _magnitude(stored)
        if not math.isfinite(magnitude):
            raise UnusableModelError(
                "the source weights are not finite",
                where=f"{self.directory}: {name}",
                actual=f"{int((~np.isfinite(widen(stored))).sum())} NaN or infinite values",
                remedy="Download the model again; nothing can be judged against it.",
            )
        return magnitude


def _sizes(geometry: Geometry) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the names and the shapes of tables, linears and the norms that feed them."""
    table, norm = (geometry.vocabulary, geometry.hidden), (geometry.hidden,)
    yield f"{EMBEDDING}.weight", table
    yield "lm_head.weight", table
    yield "model.norm.weight", norm
    for layer in range(geometry.layers):
        for place in layer_linears(layer, geometry):
            if place.norm is not None:
                yield f"{place.norm[1]}.weight", norm
            for part in place.parts:
                yield f"{part.module}.weight", (part.rows, place.columns)


def _magnitude(values: npt.NDArray[Any]) -> float:
    """Returns the largest magnitude of stored floats; NaN or infinity where one is that."""
    if not values.size:
        return 0.0
    if values.dtype == bfloat16:
        # Without their sign, the bits are in the order of the numbers, infinity and NaN last; as
        # integers with a sign the largest is of a positive number, without one of a negative.
        positive, negative = values.view(np.int16).max(), values.view(np.uint16).max()
        bits = np.maximum(positive.astype(np.int32), (negative & _UNSIGNED).astype(np.int32))
        return float(bits.astype(np.uint16).view(bfloat16))
    return float(np.maximum(values.max(), -values.min()))


def _tensors(directory: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for shard in _shards(directory):
        if not shard.is_file():
            raise UnusableModelError("a shard is missing", where=str(shard))
        tensors.update(TensorFile.open(shard))
    index = directory / _INDEX
    if index.is_file():
        missing = sorted(read_json_object(index).get("weight_map", {}).keys() - tensors.keys())
        if missing:
            raise UnusableModelError(
                "the index names tensors that no shard holds",
                where=str(index),
                actual=", ".join(missing[:5]),
            )
    return tensors


def _shards(directory: Path) -> Iterator[Path]:
    index = directory / _INDEX
    if not index.is_file():
        yield directory / _SINGLE
        return
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnusableModelError("the index has no weight_map", where=str(index))
    for name in sorted({str(shard) for shard in weight_map.values()}):
        if Path(name).name != name:
            raise UnusableModelError(
                "the index names a shard outside the directory", where=str(index), actual=name
            )
        yield directory / name
