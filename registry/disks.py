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


def disk_full(error: OSError, where: Path | None) -> DiskFullError:
    """Returns the error that says which disk is full, and how much is left on it."""
    return DiskFullError(
        "the disk is full",
        where=None if where is None else str(where),
        actual=error.strerror if where is None else f"{error.strerror}; {_free(where)}",
        remedy="free some space and run again: finished stages are kept",
    )


@contextmanager
def full_disk_said(where: Path | None = None) -> Iterator[None]:
    """Turns the failure of any file operation for want of space into a DiskFullError.

    `where` is for operations on open files, whose errors name none.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(error, Path(error.filename) if error.filename else where) from error


def _free(where: Path) -> str:
    place = next(one for one in (where, *where.absolute().parents) if one.exists())
    return f"{shutil.disk_usage(place).free / 1e6:.0f} MB free"
