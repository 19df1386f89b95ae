"""What is looked at before anything large is downloaded: all of it takes seconds."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from enginekeeper.errors import UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import PYTHON, TORCH, Toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of, toolchains_folder
from enginekeeper.toolchains.torch_source import find_torch
from enginekeeper.toolchains.uv import UvCall, call_uv, find_uv

_SPARE_BYTES = 500_000_000  # unpacked downloads that are not linked into the environment yet


def check_prerequisites(toolchains: Sequence[Toolchain], settings: Settings) -> None:
    """Raises the first thing that would stop the installation of what is not installed yet."""
    real = [toolchain for toolchain in toolchains if not toolchain.simulated]
    missing = [toolchain for toolchain in real if not _ready(toolchain, settings)]
    if not missing:
        return
    find_uv()
    if any(toolchain.needs_compiler for toolchain in missing):
        check_compiler(settings)
    find_python()
    check_disk(sum(toolchain.disk_bytes for toolchain in missing), toolchains_folder(settings))
    if any(TORCH in read_requirements(lock_of(t, settings)) for t in missing):
        find_torch(TORCH, settings)


def _ready(toolchain: Toolchain, settings: Settings) -> bool:
    return installation_of(toolchain, lock_of(toolchain, settings), settings).ready


def read_requirements(lock: Path) -> list[str]:
    """Returns the `name==version` of every entry of a lock."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith((" ", "#"))]
    return [entry.removesuffix("\\").strip() for entry in entries]


def check_compiler(settings: Settings) -> Path:
    """Returns the C++ compiler that TorchInductor will use, or says that there is none."""
    name = settings.compiler
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(
            f"no C++ compiler: {name} is not on the PATH",
            expected="g++ 9 or later (TorchInductor compiles engines with it)",
            remedy="install it (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++) "
            "or set CXX",
        )
    return Path(found)


def find_python() -> Path:
    """Returns an interpreter of the version that the locks are resolved for."""
    if sys.version_info[:2] == PYTHON:
        return Path(sys.executable)
    version = ".".join(map(str, PYTHON))
    found = shutil.which(f"python{version}")
    if found is None:
        raise UnavailableError(
            f"Python {version} is not on the PATH; the toolchains are locked for it",
            actual=f"Python {sys.version_info[0]}.{sys.version_info[1]} runs this",
            remedy=f"install python{version} beside it",
        )
    return Path(found)


def check_disk(needed: int, folder: Path) -> None:
    """Says how much is missing when the toolchains would not fit."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE_BYTES:
        raise UnavailableError(
            "not enough disk space for the toolchains",
            where=str(place),
            actual=f"{free / 1e9:.1f} GB free",
            expected=f"{(needed + _SPARE_BYTES) / 1e9:.1f} GB",
            remedy="free some space, or set ENGINEKEEPER_CACHE to a folder on another disk",
        )


def uv_version() -> str:
    """Returns what uv calls itself; raises UnavailableError when it is missing or cannot start."""
    with tempfile.TemporaryDirectory(prefix="enginekeeper-uv-") as folder:
        log = Path(folder) / "uv.log"
        call_uv(UvCall("asking uv for its version", ("--version",), Path(folder), log, 30.0))
        return log.read_text(encoding="utf-8").strip()
