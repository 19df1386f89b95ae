"""Safetensors files read piece by piece and written in one pass.

Rules:

- a file is judged whole before the first tensor is handed out: the header is JSON of a sane
  size, and the tensors' bytes fit their shapes and fill the file without holes, as the reference
  implementation demands;
- rows are read from a memory map, so that what is held is what was asked for;
- numbers keep their stored format here; `enginekeeper.validation.numerics` gives them meaning.

Example:
    >>> TensorFile.open(Path("rank0.safetensors"))["lm_head.weight"].shape  # doctest: +SKIP
    (49152, 576)
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from ml_dtypes import bfloat16, float8_e4m3fn, float8_e5m2

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
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

NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}
"""The same the other way."""

_HEADER_LIMIT = 100_000_000
"""Bytes; the limit of the reference implementation, so that a broken length cannot fill memory."""

_PREFIX = 8
"""Bytes; the little-endian length of the header."""

_AGAIN = "copy or download the file again"

_ALIGNMENT = 8
"""Bytes; the header is padded so that the data begin aligned, as the reference does."""


_MAPS: WeakValueDictionary[tuple[int, int, int], mmap.mmap] = WeakValueDictionary()
"""Files that are mapped now, by device, inode and size. A map holds a descriptor, of which a
process often has 1,024 at most: fewer than a model of 8 billion weights and its checkpoint have
tensors."""


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
        return self._mapped

    @cached_property
    def _mapped(self) -> npt.NDArray[Any]:
        """The tensor's bytes as they lie in the map of its file."""
        dtype = DTYPES[self.dtype]
        if self.nbytes == 0:
            return np.zeros(self.shape, dtype=dtype)
        flat = np.frombuffer(
            _map(self.file, self.start + self.nbytes), np.uint8, self.nbytes, self.start
        )
        return flat.view(dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Returns the rows `start:stop` of the first axis as a read-only view of the file."""
        return self.read()[start:stop]

    def columns(self, start: int, stop: int) -> StoredTensor:
        """Returns the columns `start:stop` of a matrix as a tensor of the same name."""
        shape = (self.shape[0], stop - start)
        return _Columns(self.file, self.name, self.dtype, shape, self.start, self, start)


@dataclass(frozen=True)
class _Columns(StoredTensor):
    """Some columns of a matrix."""

    whole: StoredTensor
    first: int

    @cached_property
    def _mapped(self) -> npt.NDArray[Any]:
        return self.whole.read()[:, self.first : self.first + self.shape[1]]


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
        header.pop("__metadata__", None)
        tensors = {name: _entry(path, name, entry, data_start) for name, entry in header.items()}
        _check_extents(path, tensors.values(), begin=data_start, size=size)
        return cls(path, tensors)


def _map(path: Path, end: int) -> mmap.mmap:
    """Returns a map of the file that whoever reads it shares; raises if it ends before `end`."""
    try:
        with path.open("rb", buffering=0) as handle:
            file = os.fstat(handle.fileno())
            if file.st_size < end:  # it was longer when its header was read
                raise _cut_short(path, file.st_size, f"{end} bytes by its header")
            known = (file.st_dev, file.st_ino, file.st_size)
            view = _MAPS.get(known)
            if view is None:
                view = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
                _MAPS[known] = view
    except OSError as error:
        raise _unreadable(path, error) from error
    return view


def _read_header(path: Path) -> tuple[int, dict[str, Any], int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(_PREFIX)
            if len(prefix) < _PREFIX:
                raise _cut_short(path, size, f"at least {_PREFIX} bytes: the header's length")
            length = int.from_bytes(prefix, "little")
            if length > min(_HEADER_LIMIT, size - _PREFIX):
                raise _cut_short(path, size, f"a header of {length} bytes, as its start says")
            text = handle.read(length)
    except OSError as error:
        raise _unreadable(path, error) from error
    return size, _parsed(text, path), _PREFIX + length


def _unreadable(path: Path, error: OSError) -> MalformedTensorsError:
    return MalformedTensorsError("the file cannot be read", where=str(path), actual=error.strerror)


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = parse_json(text, f"{path}: header")
    except InputError as error:
        raise MalformedTensorsError(
            f"the header is {error.what}", where=str(path), remedy=_AGAIN
        ) from error
    if not isinstance(header, dict):
        raise MalformedTensorsError("the header is not a JSON object", where=str(path))
    return header


def _entry(path: Path, name: str, entry: object, base: int) -> StoredTensor:
    where = f"{path}: {name}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedTensorsError(
            "not a tensor's entry", where=where, actual=repr(entry)[:200],
            expected="dtype, shape and data_offsets",
        )  # fmt: skip
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedTensorsError(
            "unknown number format", where=where, actual=dtype, expected=", ".join(DTYPES)
        )
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:  # noqa: PLR2004 - a pair
        raise MalformedTensorsError(
            "not a shape with offsets", where=where, actual=repr(entry)[:200]
        )
    tensor = StoredTensor(path, name, dtype, tuple(shape), base + offsets[0])
    if offsets[1] - offsets[0] != tensor.nbytes:
        raise MalformedTensorsError(
            "the tensor's bytes do not fit its shape",
            where=where,
            actual=f"bytes {offsets[0]} to {offsets[1]}",
            expected=f"{tensor.nbytes} bytes of {dtype} {shape}",
        )
    return tensor


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 60 for v in values)


def _check_extents(path: Path, tensors: Iterable[StoredTensor], *, begin: int, size: int) -> None:
    """Raises when tensors overlap or leave holes, or the file ends elsewhere than they do."""
    end = begin
    for tensor in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
        if tensor.start != end:
            raise MalformedTensorsError(
                "tensors overlap or leave a hole",
                where=f"{path}: {tensor.name}",
                actual=f"begins at byte {tensor.start}",
                expected=f"byte {end}",
            )
        end += tensor.nbytes
    if size < end:
        raise _cut_short(path, size, f"{end} bytes by its header")
    if size > end:
        raise MalformedTensorsError(
            "bytes follow the last tensor", where=str(path), actual=size, expected=end
        )  # fmt: skip


def _cut_short(path: Path, size: int, expected: str) -> MalformedTensorsError:
    return MalformedTensorsError(
        "the file is cut short or is not safetensors",
        where=str(path),
        actual=f"{size} bytes",
        expected=expected,
        remedy=_AGAIN,
    )


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: what the header says of it, and its pieces when their turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[npt.NDArray[Any]]
    """Consecutive arrays of the format `dtype` whose bytes, joined, are the tensor."""

    @classmethod
    def of(cls, name: str, array: npt.NDArray[Any]) -> PlannedTensor:
        """Plans a whole array, in its own format."""
        return cls(name, NAMES[array.dtype], array.shape, [array])


def write_tensors(
    path: Path, tensors: Iterable[PlannedTensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file piece by piece, holding one piece at a time."""
    plan = list(tensors)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
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
