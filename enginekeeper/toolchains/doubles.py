"""Puts a release's doubles where its programs would be; nothing is downloaded.

The scripts start modules of this very installation of Enginekeeper. They are written anew where
they are not those that they should be, so that none of another installation is ever run.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from enginekeeper.toolchains.catalogue import WITHOUT_ENGINES
from enginekeeper.toolchains.installation import RECORD, Installation
from registry.files import write_whole

_ROOT = Path(__file__).parents[2]
_MODULES = "enginekeeper.building.simulated"

SETTINGS = "double.json"
"""Beside the programs: what they are told, such as how to fail (`building/simulated/build.py`)."""


def install_double(installation: Installation) -> None:
    """Brings the programs of a simulated toolchain up to date; costs nothing where they are."""
    release, folder = str(installation.toolchain.release), installation.python.parent
    folder.mkdir(parents=True, exist_ok=True)
    settings = str(folder / SETTINGS)
    programs: dict[str, tuple[str, ...]] = {"nvidia-smi": ("smi", settings)}
    if release not in WITHOUT_ENGINES:
        programs["trtllm-build"] = ("build", release, settings)
        programs["trtllm-refit"] = ("refit", release)
    for name, (module, *words) in programs.items():
        _write(folder / name, _script(module, *words), mode=0o755)
    if not installation.python.is_symlink() or installation.python.readlink() != _python():
        draft = folder / ".python.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(_python())
        draft.replace(installation.python)
    record = {
        "schema": 1,
        "name": installation.toolchain.name,
        "lock": str(installation.lock),
        "installed": {},
        "simulated": True,
    }
    _write(installation.path / RECORD, json.dumps(record, indent=2) + "\n", mode=0o644)


def _python() -> Path:
    return Path(sys.executable)


def _script(module: str, *words: str) -> str:
    root, command = shlex.quote(str(_ROOT)), shlex.join([str(_python()), "-B", "-m"])
    return (
        f"#!/bin/sh\nexport PYTHONPATH={root}\n"
        f'exec {command} {_MODULES}.{module} {shlex.join(words)} "$@"\n'
    )


def _write(path: Path, text: str, *, mode: int) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    write_whole(path, text.encode(), mode=mode)
