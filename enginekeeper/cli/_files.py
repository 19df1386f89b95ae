"""Files that somebody asked a command to write."""

from __future__ import annotations

from pathlib import Path


def write_file(path: Path, text: str) -> None:
    """Writes a file, with the folders it lacks, whole or not at all.

    Raises InputError where it cannot be written, DiskFullError where there is no space for it.
    """
    from enginekeeper.errors import InputError
    from registry.disks import full_disk_said
    from registry.files import write_whole

    try:
        with full_disk_said(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode())
    except OSError as error:
        raise InputError(
            "the file cannot be written", where=str(path), actual=error.strerror
        ) from error
