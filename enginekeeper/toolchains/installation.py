"""Where a toolchain's installation is, and in which state.

An installation is a virtual environment in `<cache>/toolchains/<name>-<lock digest>`. A record
in it is written last: without the record it is unfinished and nobody uses it. It is built in its
final place, because a virtual environment and its bytecode carry their own path.
"""

from __future__ import annotations

import enum
import shutil
from dataclasses import dataclass
from pathlib import Path

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import Toolchain, contained_lock
from registry.digests import Digest, digest_file

RECORD = "toolchain.json"


class State(enum.Enum):
    """What is there of a toolchain."""

    READY = "ready"
    ABSENT = "absent"
    UNFINISHED = "unfinished"
    """An installation was interrupted; the next one starts over from what was downloaded."""

    STALE = "stale"
    """Installed from another lock file than the present one."""

    BROKEN = "broken"
    """Finished once, and its interpreter no longer runs."""

    CONTAINED = "in a container"
    """Its steps run in an image; nothing is installed here."""

    UNRESOLVED = "unresolved"
    """There is no lock file yet: it is resolved on a GPU host."""


@dataclass(frozen=True)
class Installation:
    """The place of one toolchain at one lock."""

    toolchain: Toolchain
    lock: Digest
    path: Path

    @property
    def python(self) -> Path:
        """The interpreter that steps of this toolchain run with."""
        return self.path / "bin" / "python"

    @property
    def finished(self) -> bool:
        """Whether it was installed to the end."""
        return (self.path / RECORD).is_file()

    @property
    def ready(self) -> bool:
        """Whether steps can run in it; an interpreter that was upgraded away cannot."""
        return self.finished and self.python.exists()


def toolchains_folder(settings: Settings) -> Path:
    """Returns the folder of all installations."""
    return settings.cache / "toolchains"


def installation_of(toolchain: Toolchain, lock: Path, settings: Settings) -> Installation:
    """Returns where a toolchain is, or would be, installed from a lock."""
    digest = digest_file(lock)
    path = toolchains_folder(settings) / f"{toolchain.name}-{digest.short}"
    return Installation(toolchain, digest, path)


def state_of(toolchain: Toolchain, settings: Settings) -> State:
    """Looks at files only: fast, and blind to a damage that only an import would show."""
    lock = toolchain.lock_file(settings)
    if lock is None:
        return State.UNRESOLVED
    if lock == contained_lock(toolchain.name, settings):
        return State.CONTAINED
    installation = installation_of(toolchain, lock, settings)
    if installation.ready:
        return State.READY
    if installation.finished:
        return State.BROKEN
    if installation.path.exists():
        return State.UNFINISHED
    return State.STALE if leftovers(toolchain, settings) else State.ABSENT


def leftovers(toolchain: Toolchain, settings: Settings) -> list[Path]:
    """Returns the installations of a toolchain from other locks than the present one."""
    lock = toolchain.lock_file(settings)
    present = None if lock is None else installation_of(toolchain, lock, settings).path
    # The digest is the last part: a toolchain's own name may contain dashes.
    named = toolchains_folder(settings).glob(f"{toolchain.name}-*/")
    return sorted(
        path for path in named
        if path != present and path.name.rpartition("-")[0] == toolchain.name
    )  # fmt: skip


def remove_leftovers(toolchain: Toolchain, settings: Settings) -> list[Path]:
    """Removes the installations from other locks; returns what is gone."""
    removed = leftovers(toolchain, settings)
    for path in removed:
        (path / RECORD).unlink(missing_ok=True)  # first, so that a half-removed one is unfinished
        shutil.rmtree(path)
    return removed
