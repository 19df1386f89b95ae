"""Installs a toolchain from its lock file, once.

Rules:

- what would stop it is found first (`prerequisites`), before anything large is downloaded;
- it installs exactly the lock, with hashes and without dependencies: what is not in the lock
  is not in the environment;
- an installation counts when it has been imported and recorded; an interrupted one is started
  over, and what was downloaded is in uv's cache;
- one process installs at a time, the others wait and then find it.

Example:
    python = ensure("inductor", Settings.from_environment(), progress=print)
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginekeeper.errors import StepError, UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import TORCH, contained_lock, find_toolchain, lock_of
from enginekeeper.toolchains.doubles import install_double
from enginekeeper.toolchains.installation import (
    RECORD,
    Installation,
    installation_of,
    toolchains_folder,
)
from enginekeeper.toolchains.prerequisites import (
    check_prerequisites,
    find_python,
    read_requirements,
)
from enginekeeper.toolchains.runner import StepRun, run_step
from enginekeeper.toolchains.torch_source import find_links_options, find_torch
from enginekeeper.toolchains.uv import Listener, UvCall, call_uv
from registry.files import write_whole

_PROGRESS = logging.getLogger("enginekeeper.progress")

_INSTALL_SECONDS = 3600.0  # a gigabyte and a half over a slow line
_IMPORT_SECONDS = 600.0  # a first import compiles bytecode: 40 s for vLLM on two busy cores


def ensure(name: str, settings: Settings, *, progress: Listener | None = None) -> Path:
    """Returns the interpreter of a toolchain, installing it first if need be."""
    toolchain = find_toolchain(name)
    if contained_lock(name, settings) is not None:
        raise UnavailableError(
            f"the toolchain {name} runs in a container here: there is nothing to install",
            where=str(contained_lock(name, settings)),
            remedy=f"enginekeeper toolchain container {name} --remove",
        )
    installation = installation_of(toolchain, lock_of(toolchain, settings), settings)
    tell = progress or _PROGRESS.info
    if toolchain.simulated:
        with _alone(installation, settings, tell):
            install_double(installation)
    if installation.ready:
        return installation.python
    with _alone(installation, settings, tell):
        if not installation.ready:
            check_prerequisites([toolchain], settings)
            _install(installation, settings, _under(name, tell))
    return installation.python


@contextmanager
def _alone(installation: Installation, settings: Settings, tell: Listener) -> Iterator[None]:
    """Keeps other processes from installing the same; the kernel frees it if this one dies."""
    folder = toolchains_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{installation.path.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"{installation.toolchain.name}: another process is installing it, waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _under(name: str, tell: Listener) -> Listener:
    """Puts the toolchain's name before every line and leaves out lists and tracebacks."""

    def say(line: str) -> None:
        if not line.startswith((" + ", "Using Python")):
            tell(f"{name}: {line}")

    return say


def _progress_only(tell: Listener) -> Listener:
    def say(line: str) -> None:
        if line.startswith("progress "):
            tell(line.removeprefix("progress "))

    return say


def _install(installation: Installation, settings: Settings, tell: Listener) -> None:
    name, place = installation.toolchain.name, installation.path
    size = installation.toolchain.disk_bytes / 1e9
    tell(f"installing into {place} (about {size:.1f} GB)")
    started = time.monotonic()
    shutil.rmtree(place, ignore_errors=True)
    logs = toolchains_folder(settings) / "logs" / place.name
    logs.mkdir(parents=True, exist_ok=True)
    arguments = ("venv", "--quiet", "--no-config", "--python", str(find_python()), str(place))
    call_uv(UvCall(f"creating {name}", arguments, logs, logs / "venv.log", 120.0), tell)
    _install_requirements(installation, settings, logs, tell)
    tell("importing it for the first time")
    installed = _check_imports(installation, logs, tell)
    _record(installation, installed, time.monotonic() - started)
    tell(f"ready after {time.monotonic() - started:.0f} s")


def _install_requirements(
    installation: Installation, settings: Settings, logs: Path, tell: Listener
) -> None:
    """Installs torch from where it is to be had, and the rest of the lock from the index."""
    name = installation.toolchain.name
    lock = lock_of(installation.toolchain, settings)
    text = lock.read_text(encoding="utf-8")
    into = ("pip", "install", "--no-deps", "--no-build", "--python", str(installation.python))
    if TORCH in read_requirements(lock):
        tell(f"looking for {TORCH}")
        options = find_torch(TORCH, settings)
        torch = UvCall(f"installing {TORCH} into {name}", (*into, *options, TORCH),
                       logs, logs / "torch.log", _INSTALL_SECONDS)  # fmt: skip
        call_uv(torch, tell)
        text = "\n".join(line for line in text.splitlines() if line.strip() != TORCH)
    rest = logs / "requirements.txt"
    rest.write_text(text + "\n", encoding="utf-8")
    places = find_links_options(settings)
    arguments = (*into, *places, "--require-hashes", "--requirement", str(rest))
    install = UvCall(f"installing {name}", arguments, logs, logs / "install.log", _INSTALL_SECONDS)
    call_uv(install, tell)


def _check_imports(installation: Installation, logs: Path, tell: Listener) -> dict[str, str]:
    """Returns what is installed; a toolchain that does not import is not finished."""
    toolchain = installation.toolchain
    run = StepRun(
        toolchain=toolchain.name,
        step="check_toolchain",
        job={"imports": list(toolchain.imports), "absent": list(toolchain.absent)},
        directory=logs / "check",
        timeout_seconds=_IMPORT_SECONDS,
    )
    try:
        outcome = run_step(run, python=installation.python, on_line=_progress_only(tell))
    except StepError as error:
        raise UnavailableError(
            f"the toolchain {toolchain.name} is installed but does not work",
            where=str(run.place.log),
            actual=error.actual or error.what,
            remedy=f"enginekeeper toolchain sync {toolchain.name}; "
            "if it fails again, report it with the log",
        ) from error
    installed: dict[str, str] = outcome.outputs["installed"]
    return installed


def _record(installation: Installation, installed: dict[str, str], seconds: float) -> None:
    record = {
        "schema": 1,
        "name": installation.toolchain.name,
        "lock": str(installation.lock),
        "installed": installed,
        "seconds": round(seconds, 1),
    }
    write_whole(installation.path / RECORD, json.dumps(record, indent=2, sort_keys=True).encode())
