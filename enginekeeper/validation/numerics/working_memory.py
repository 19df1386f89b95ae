"""Keeps the C library from handing memory back that the next chunk needs again.

Weights are read in chunks, and each chunk has a handful of arrays of some hundred KB. glibc gives
what is free at the top of its heap back to the kernel as soon as it is more than twice the largest
block that was ever mapped on its own (mallopt(3), M_TRIM_THRESHOLD): after each chunk, so that the
next one's pages are faulted in and zeroed again. That took more than half of an audit's time.
"""

from __future__ import annotations

import numpy as np

_LARGE = 16 << 20
"""Bytes; below the 32 MB up to which glibc learns, far above what one chunk needs."""


def keep_freed_memory() -> None:
    """Lets the C library keep some MB that are free: it learns from a large block's being freed.

    The block is never touched, so that it takes no memory; other C libraries do not mind.
    """
    np.empty(_LARGE, np.uint8)
