"""Resolves a toolchain's requirements into a lock file: exact versions with hashes, no places.

A lock names no index and no folder, so that it is the same wherever it was resolved; torch
gets no hash, because its CPU build is taken from local wheels or from PyTorch's index.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from enginekeeper.errors import InputError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import PYTHON, Toolchain, local_locks
from enginekeeper.toolchains.torch_source import find_links_options
from enginekeeper.toolchains.uv import Listener, UvCall, call_uv
from registry.files import write_whole

_LOCAL_BUILD = re.compile(r"^(torch==\S+\+cpu)(?: \\\n    --hash=\S+)+", re.MULTILINE)

_HEADER = """\
# {name}: made by `enginekeeper toolchain lock {name}` from {name}.in; do not edit.
# torch has no hash: a local wheel and the one on PyTorch's CPU index may differ in their bytes.
# This list is complete: it is installed with --no-deps{absent}.
"""


def write_lock(toolchain: Toolchain, settings: Settings, on_line: Listener | None = None) -> Path:
    """Resolves a toolchain anew and returns its lock file.

    A lock for GPU hosts is this host's own; any other belongs beside its requirements. Raises
    InputError for a simulated toolchain.
    """
    if toolchain.simulated:
        raise InputError(
            "a simulated toolchain has nothing to resolve",
            where=toolchain.name,
            remedy=f"enginekeeper toolchain sync {toolchain.name}",
        )
    folder = local_locks(settings) if toolchain.gpu_host_only else toolchain.requirements.parent
    path = folder / f"{toolchain.name}.lock"
    text = resolve_lock(toolchain, settings, on_line)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return path


def resolve_lock(toolchain: Toolchain, settings: Settings, on_line: Listener | None = None) -> str:
    """Returns the text of a new lock file; needs the package index, installs nothing."""
    with tempfile.TemporaryDirectory(prefix="enginekeeper-lock-") as folder:
        output = Path(folder) / "lock"
        call_uv(
            UvCall(
                purpose=f"resolving the toolchain {toolchain.name}",
                arguments=(*_arguments(toolchain, settings), "--output-file", str(output)),
                directory=Path(folder),
                log=Path(folder) / "uv.log",
                timeout_seconds=600,
            ),
            on_line,
        )
        resolved = output.read_text(encoding="utf-8")
    absent = f", without {', '.join(toolchain.absent)}" if toolchain.absent else ""
    header = _HEADER.format(name=toolchain.name, absent=absent)
    return header + _LOCAL_BUILD.sub(r"\1", resolved)


def _arguments(toolchain: Toolchain, settings: Settings) -> tuple[str, ...]:
    platform = () if toolchain.gpu_host_only else ("--python-platform", "x86_64-manylinux_2_28")
    return (
        "pip", "compile", "--quiet", str(toolchain.requirements),
        "--python-version", ".".join(map(str, PYTHON)), *platform,
        "--generate-hashes", "--no-annotate", "--no-header",
        "--no-emit-index-url", "--no-emit-find-links",
        *(option for name in toolchain.absent for option in ("--no-emit-package", name)),
        *find_links_options(settings),
    )  # fmt: skip
