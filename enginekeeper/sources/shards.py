"""Reads safetensors headers without trusting them, and looks at every weight once.

A header is a length, a JSON object and then the tensors' bytes without holes. Everything in it is
checked against the file's size, so that a shard cut short is named and not mapped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enginekeeper.errors import InputError

_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
_CHUNK = 1 << 22  # elements looked at together: 16 MB of float32

_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

_EXPONENT = {
    "F8_E5M2": ("<u1", 0x7C),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}
"""All bits of the exponent set: infinite, or not a number."""

_NAN_ONLY = {"F8_E4M3": ("<u1", 0x7F)}
"""This format has no infinities; all bits but the sign set is its only NaN."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a shard: its place in the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_shard(path: Path) -> dict[str, Tensor]:
    """Returns a shard's tensors by name; raises InputError when header and file disagree."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, _LARGEST_HEADER):  # noqa: PLR2004
                raise _cut_short(path, size, f"a header of {length} bytes")
            header = _parse(path, handle.read(length))
    except FileNotFoundError:
        raise InputError("the shard is missing", where=str(path)) from None
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
    _check_layout(path, tensors, begin=8 + length, size=size)
    return {tensor.name: tensor for tensor in tensors}


def check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raises InputError naming the first tensor with a weight that is not a finite number."""
    for tensor in tensors.values():
        bad = sum(_count_bad(path, tensor))
        if bad:
            raise InputError(
                f"{bad} of {math.prod(tensor.shape)} weights of {tensor.name} are not finite",
                where=str(path),
                expected="finite numbers",
                remedy="get the model again and compare its digests with the publisher's",
            )


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the shard's header is not readable: {error}", where=str(path)) from error
    if not isinstance(header, dict):
        raise InputError("the shard's header is not an object", where=str(path))
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name is there twice")
    return unique


def _tensor(path: Path, name: str, entry: object, base: int) -> Tensor:
    where = f"{path}: {name}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError("not a tensor's entry", where=where, actual=repr(entry)[:200])
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _BYTES:
        raise InputError("unknown number format", where=where, actual=dtype)
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:  # noqa: PLR2004
        raise InputError("not a shape with offsets", where=where, actual=repr(entry)[:200])
    wanted = math.prod(shape) * _BYTES[dtype]
    if offsets[1] - offsets[0] != wanted:
        raise InputError(
            "the tensor's bytes do not fit its shape",
            where=where,
            actual=offsets[1] - offsets[0],
            expected=wanted,
        )
    return Tensor(name, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 60 for v in values)


def _check_layout(path: Path, tensors: list[Tensor], *, begin: int, size: int) -> None:
    """Raises when tensors overlap or leave holes, or the file ends elsewhere than they do."""
    end = begin
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            raise InputError(
                "tensors overlap or leave a hole",
                where=f"{path}: {tensor.name}",
                actual=f"begins at byte {tensor.begin}",
                expected=f"byte {end}",
            )
        end = tensor.end
    if size < end:
        raise _cut_short(path, size, f"{end} bytes by its header")
    if size > end:
        raise InputError(
            "bytes follow the last tensor", where=str(path), actual=size, expected=end
        )  # fmt: skip


def _cut_short(path: Path, size: int, expected: str) -> InputError:
    return InputError(
        "the shard is cut short",
        where=str(path),
        actual=f"{size} bytes",
        expected=expected,
        remedy="get the file again",
    )


def _count_bad(path: Path, tensor: Tensor) -> Iterator[int]:
    """Counts non-finite weights piece by piece, from their bits: faster than converting them."""
    if tensor.dtype in _EXPONENT:
        form, mask = _EXPONENT[tensor.dtype]
    elif tensor.dtype in _NAN_ONLY:
        form, mask = _NAN_ONLY[tensor.dtype]
    else:
        return
    count = math.prod(tensor.shape)
    if count == 0:
        return
    bits = np.memmap(path, dtype=form, mode="r", offset=tensor.begin, shape=(count,))
    wanted = bits.dtype.type(mask)
    for start in range(0, count, _CHUNK):
        piece = bits[start : start + _CHUNK]
        yield int(np.count_nonzero((piece & wanted) == wanted))
