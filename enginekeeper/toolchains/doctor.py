"""Looks at this machine and says, for each thing a run needs, what is there and what to do."""

from __future__ import annotations

import enum
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from enginekeeper.errors import EngineKeeperError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import TOOLCHAINS, TORCH, Toolchain, lock_of
from enginekeeper.toolchains.installation import (
    State,
    installation_of,
    state_of,
    toolchains_folder,
)
from enginekeeper.toolchains.prerequisites import (
    check_compiler,
    check_disk,
    find_python,
    uv_version,
)
from enginekeeper.toolchains.runner import StepRun, run_step
from enginekeeper.toolchains.torch_source import find_torch


class Health(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong, and something is not there yet."""

    BAD = "bad"
    """Runs will stop at this."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    health: Health
    detail: str
    remedy: str | None = None


def examine(settings: Settings, *, deep: bool = False) -> list[Finding]:
    """Returns a finding for each prerequisite and each toolchain that is no double.

    With `deep`, ready toolchains are imported and the source of torch is asked: tens of seconds.
    """
    findings = [
        _try("python", lambda: f"{find_python()} (this is {sys.version.split()[0]})"),
        _try("uv", uv_version),
        _try("C++ compiler", lambda: str(check_compiler(settings))),
        _try("disk", lambda: _disk(settings)),
    ]
    if deep:
        findings.append(_try("torch", lambda: " ".join(find_torch(TORCH, settings))))
    real = (toolchain for toolchain in TOOLCHAINS.values() if not toolchain.simulated)
    return [*findings, *(_examine_toolchain(one, settings, deep=deep) for one in real)]


def _try(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, Health.OK, look())
    except EngineKeeperError as error:
        detail = error.what if error.actual is None else f"{error.what} ({error.actual})"
        return Finding(subject, Health.BAD, detail, error.remedy)


def _disk(settings: Settings) -> str:
    folder = toolchains_folder(settings)
    absent = [t for t in TOOLCHAINS.values() if not t.gpu_host_only]
    needed = sum(t.disk_bytes for t in absent if state_of(t, settings) is not State.READY)
    if needed:
        check_disk(needed, folder)
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    return f"{free / 1e9:.1f} GB free below {place}, {needed / 1e9:.1f} GB still to install"


def _examine_toolchain(toolchain: Toolchain, settings: Settings, *, deep: bool) -> Finding:
    subject = f"toolchain {toolchain.name}"
    sync = f"enginekeeper toolchain sync {toolchain.name}"
    state = state_of(toolchain, settings)
    match state:
        case State.READY:
            lock = lock_of(toolchain, settings)
            path = installation_of(toolchain, lock, settings).path
            return _import(toolchain, path, subject) if deep else _ready(subject, path)
        case State.ABSENT | State.UNFINISHED | State.STALE:
            return Finding(subject, Health.NOTE, state.value, sync)
        case State.BROKEN:
            return Finding(subject, Health.BAD, "its interpreter is gone", sync)
        case State.CONTAINED:
            return Finding(subject, Health.OK, f"runs as {lock_of(toolchain, settings)} says")
        case State.UNRESOLVED:
            lock_it = f"on a GPU host: enginekeeper toolchain lock {toolchain.name}"
            return Finding(subject, Health.NOTE, "resolved on a GPU host", lock_it)
        case _:
            assert_never(state)


def _ready(subject: str, path: Path) -> Finding:
    return Finding(subject, Health.OK, f"ready in {path}")


def _import(toolchain: Toolchain, path: Path, subject: str) -> Finding:
    run = StepRun(
        toolchain=toolchain.name,
        step="check_toolchain",
        job={"imports": list(toolchain.imports), "absent": list(toolchain.absent)},
        directory=path.parent / "logs" / path.name / "doctor",
        timeout_seconds=600,
    )
    try:
        run_step(run, python=path / "bin" / "python")
    except EngineKeeperError as error:
        remedy = f"remove {path}, then: enginekeeper toolchain sync {toolchain.name}"
        return Finding(
            subject, Health.BAD, f"does not import: {error.actual or error.what}", remedy
        )
    return _ready(subject, path)
