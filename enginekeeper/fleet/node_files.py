"""Small files of a node's own: written whole or not at all, whoever is killed in the middle.

A directory of them that cannot be listed is no empty one: what nobody can read is told.
"""

from __future__ import annotations

import os
from pathlib import Path

from enginekeeper.errors import InputError, UnavailableError
from registry import files


def write_whole(path: Path, text: str, *, mode: int = 0o644, make: bool = True) -> None:
    """Writes a file so that it is on the disk, old or new, whatever happens next.

    Its directory is made if need be, unless told otherwise. Raises UnavailableError where that
    cannot be.
    """
    try:
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, text.encode(), mode=mode)
        _keep_name(path.parent)
    except OSError as error:
        raise UnavailableError(
            f"the file cannot be written: {error.strerror}", where=str(path),
            remedy="free some space, or see who owns the directory",
        ) from error  # fmt: skip


def documents_in(directory: Path) -> list[Path]:
    """Returns the JSON files of a directory by name; none where there is no such directory.

    Raises InputError for one that cannot be listed, which `Path.glob` takes for an empty one.
    """
    try:
        return sorted(one for one in directory.iterdir() if one.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"the directory cannot be listed: {error.strerror}", where=str(directory),
            expected=f"one that user {os.geteuid()} may read",
            remedy="see who owns it, and with which mode",
        ) from error  # fmt: skip


def _keep_name(directory: Path) -> None:
    """Brings a directory's entries to the disk, without which a new name may be lost."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
