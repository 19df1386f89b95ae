"""Safetensors files read piece by piece and written in one pass.

Rules:

- a file is judged whole before the first tensor is handed out: the header is JSON of a sane
  size, and every tensor's offsets lie inside the file, fit its shape, and overlap no other's;
- rows are read from a memory map, so that what is held is what was asked for;
- numbers keep their stored format here; `enginekeeper.validation.numerics` gives them meaning.

Example:
    >>> TensorFile.open(Path("rank0.safetensors"))["lm_head.weight"].shape  # doctest: +SKIP
    (49152, 576)
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ml_dtypes import bfloat16, float8_e4m3fn, float8_e5m2

from enginekeeper.errors import InputError

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F8_E4M3": np.dtype(float8_e4m3fn),
    "F8_E5M2": np.dtype(float8_e5m2),
}
"""The names safetensors gives to number formats, and how numpy holds them."""

_HEADER_LIMIT = 100_000_000
"""Bytes; the limit of the reference implementation, so that a broken length cannot fill memory."""

_PREFIX = 8
"""Bytes; the little-endian length of the header."""

_ALIGNMENT = 8
"""Bytes; the header is padded so that the data begin aligned, as the reference does."""


class MalformedTensorsError(InputError):
    """A safetensors file is cut short, inconsistent, or not one at all."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: its format, its shape and where its bytes are."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte from the beginning of the file."""

    @property
    def nbytes(self) -> int:
        """How many bytes the file holds for it."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self) -> npt.NDArray[Any]:
        """Returns the whole tensor as a read-only view of the file."""
        if self.nbytes == 0:
            return np.zeros(self.shape, dtype=DTYPES[self.dtype])
        view = np.memmap(self.file, mode="r", dtype=np.uint8, offset=self.start, shape=self.nbytes)
        return np.asarray(view).view(DTYPES[self.dtype]).reshape(self.shape)

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Returns the rows `start:stop` of the first axis as a read-only view of the file."""
        return self.read()[start:stop]


class TensorFile(Mapping[str, StoredTensor]):
    """The tensors of one safetensors file, by name, in the file's order."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]) -> None:
        self.path = path
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Reads and judges the header; raises MalformedTensorsError when the file is not whole."""
        size, header, data_start = _read_header(path)
        tensors = {
            name: _entry(path, name, entry, data_start)
            for name, entry in header.items()
            if name != "__metadata__"
        }
        _check_extents(path, tensors.values(), size)
        return cls(path, tensors)


def _read_header(path: Path) -> tuple[int, dict[str, Any], int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == _PREFIX else -1
            if not 0 <= length <= min(_HEADER_LIMIT, size - 8):
                raise MalformedTensorsError(
                    "the file is cut short or is not safetensors",
                    where=str(path),
                    actual=f"{size} bytes, header of {length} bytes announced",
                    remedy="Copy or download the file again.",
                )
            text = handle.read(length)
    except OSError as error:
        raise MalformedTensorsError(
            "the file cannot be read", where=str(path), actual=error.strerror
        ) from error
    try:
        header = json.loads(text)
    except ValueError as error:
        raise MalformedTensorsError("the header is not JSON", where=str(path)) from error
    if not isinstance(header, dict):
        raise MalformedTensorsError("the header is not a JSON object", where=str(path))
    return size, header, 8 + length


def _entry(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:  # noqa: ANN401 - JSON
    where = f"{path}: {name}"
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sane = all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop))
    except (TypeError, KeyError, ValueError) as error:
        raise MalformedTensorsError("the tensor's entry is malformed", where=where) from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedTensorsError(
            "unknown number format", where=where, actual=dtype, expected=", ".join(DTYPES)
        )
    tensor = StoredTensor(path, name, dtype, shape, data_start + start if sane else 0)
    if not sane or stop - start != tensor.nbytes:
        raise MalformedTensorsError(
            "the tensor's offsets do not fit its shape",
            where=where,
            actual=f"{dtype} {list(shape)} in bytes {start} to {stop}",
        )
    return tensor


def _check_extents(path: Path, tensors: Iterable[StoredTensor], size: int) -> None:
    previous = None
    for tensor in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
        if tensor.start + tensor.nbytes > size:
            raise MalformedTensorsError(
                "the file is cut short",
                where=f"{path}: {tensor.name}",
                actual=f"{size} bytes",
                expected=f"at least {tensor.start + tensor.nbytes} bytes",
                remedy="Copy or download the file again.",
            )
        if previous is not None and tensor.start < previous.start + previous.nbytes:
            raise MalformedTensorsError(
                f"the bytes of two tensors overlap: {previous.name} and {tensor.name}",
                where=str(path),
            )
        previous = tensor


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: what the header says of it, and its pieces when their turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[npt.NDArray[Any]]
    """Consecutive arrays of the format `dtype` whose bytes, joined, are the tensor."""


def write_tensors(path: Path, tensors: Iterable[PlannedTensor]) -> None:
    """Writes a safetensors file piece by piece, holding one piece at a time."""
    plan = list(tensors)
    header: dict[str, Any] = {}
    offset = 0
    for tensor in plan:
        nbytes = math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for tensor in plan:
            for piece in tensor.pieces:
                array = np.ascontiguousarray(piece, dtype=DTYPES[tensor.dtype])
                handle.write(array.view(np.uint8).data)
        written = handle.tell()
    if written != 8 + len(text) + offset:
        raise MalformedTensorsError(
            "the pieces written do not add up to the shapes announced",
            where=str(path),
            actual=f"{written} bytes",
            expected=f"{8 + len(text) + offset} bytes",
        )
