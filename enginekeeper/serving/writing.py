"""Writes a directory of small files: all of them, or no directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from enginekeeper.errors import InputError, UnavailableError


def write_new(directory: Path, files: Mapping[str, str]) -> None:
    """Writes files into a directory that must not exist; raises InputError, UnavailableError."""
    if directory.exists() or directory.is_symlink():
        raise InputError(
            "something is there already", where=str(directory), remedy="name another place"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            for name, text in files.items():
                file = draft / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            draft.chmod(0o755)
            draft.rename(directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot be written: {error.strerror}", where=str(directory)
        ) from error
