"""Looks at every weight of a file once: is it a finite number?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from enginekeeper.errors import InputError
from enginekeeper.validation.tensor_files import StoredTensor, TensorFile

_CHUNK = 1 << 22  # elements looked at together: 16 MB of float32

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


def check_finite(file: TensorFile) -> None:
    """Raises InputError naming the first tensor with a weight that is not a finite number."""
    for tensor in file.values():
        bad = sum(_count_bad(tensor))
        if bad:
            raise InputError(
                f"{bad} of {math.prod(tensor.shape)} weights of {tensor.name} are not finite",
                where=str(file.path),
                expected="finite numbers",
                remedy="get the model again and compare its digests with the publisher's",
            )


def _count_bad(tensor: StoredTensor) -> Iterator[int]:
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
    bits = np.memmap(tensor.file, dtype=form, mode="r", offset=tensor.start, shape=(count,))
    wanted = bits.dtype.type(mask)
    for start in range(0, count, _CHUNK):
        piece = bits[start : start + _CHUNK]
        yield int(np.count_nonzero((piece & wanted) == wanted))
