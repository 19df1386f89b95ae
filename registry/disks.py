"""A full disk: one way to notice it, and one error that says it, wherever it happens."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import DiskFullError


def is_full(error: OSError) -> bool:
    """Says whether an operation failed because a disk, a quota or the file size limit is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(error: OSError, where: Path) -> DiskFullError:
    """Returns the error that says which disk is full, and how much is left on it."""
    place = next((one for one in (where, *where.parents) if one.exists()), Path("/"))
    return DiskFullError(
        "the disk is full",
        where=str(where),
        actual=f"{error.strerror}; {shutil.disk_usage(place).free / 1e6:.0f} MB free",
        remedy="free some space and run again: finished stages are kept",
    )


@contextmanager
def full_disk_said() -> Iterator[None]:
    """Turns the failure of any file operation for want of space into a DiskFullError."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(error, Path(error.filename or "/")) from error
