"""The names, types, shapes and places of the tensors in a safetensors file, without a library.

The file is refused when it is shorter or longer than its header says, so that a shard cut short by
a full disk never becomes an engine.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _step import Refusal

if TYPE_CHECKING:
    from pathlib import Path

HEADER_LIMIT = 100_000_000
"""The safetensors format's own limit on the header, in bytes."""

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as its file describes it."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Renders as `F32[576,9]`."""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def read_index(path: Path) -> dict[str, TensorEntry]:
    """Returns the tensors of a safetensors file after checking that all their bytes are there."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(HEADER_LIMIT, size):
                raise _cut_short(path, length + 8, size)
            header = json.loads(file.read(length))
        entries = {
            name: TensorEntry(str(value["dtype"]), tuple(int(n) for n in value["shape"]))
            for name, value in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError:
        raise Refusal("not-a-checkpoint", "the weights file is missing", where=str(path)) from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(
            "weights-unreadable", f"not a safetensors file: {error}", where=str(path)
        ) from None
    _check_extent(path, header, size - 8 - length)
    return entries


def _check_extent(path: Path, header: dict[str, Any], available: int) -> None:
    """Checks that each tensor has the bytes of its shape and that the file ends with the last."""
    end = 0
    for name, value in header.items():
        if name == "__metadata__":
            continue
        first, last = value["data_offsets"]
        end = max(end, last)
        bits = BITS.get(value["dtype"])
        if bits is not None and (last - first) * 8 != bits * math.prod(value["shape"]):
            raise Refusal(
                "weights-unreadable",
                f"{name} has the wrong number of bytes",
                where=str(path),
                expected=bits * math.prod(value["shape"]) // 8,
                actual=last - first,
            )
    if end != available:
        raise _cut_short(path, end, available)


def _cut_short(path: Path, expected: int, actual: int) -> Refusal:
    return Refusal(
        "weights-cut-short",
        "the weights file does not have the length its header says",
        where=str(path),
        expected=f"{expected} bytes",
        actual=f"{actual} bytes",
        remedy="export or download the checkpoint again",
    )
