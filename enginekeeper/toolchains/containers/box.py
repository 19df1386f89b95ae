"""What runs in a container, whatever runs it: a command, its mounts, its environment, its GPU.

Rules:

- a path is the same inside and outside, so that a job means the same in both;
- what a job reads is mounted read-only; only where it writes, and the step's own folder, are not;
- nothing is mounted that holds a key, or is held by a folder of keys;
- there is no network, and no environment but what is set here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.errors import InputError

WRITTEN = frozenset({"output", "end"})
"""Fields of a job that name what a step makes: the folder that is to hold it is writable."""

_NOT_MOUNTABLE = re.compile(r"[\x00-\x1f\x7f,:\"\\]")
"""Marks that the command lines of Docker, Podman and Apptainer give a meaning to."""


@dataclass(frozen=True, order=True)
class Mount:
    """A directory or file of the host, at its own path."""

    path: Path
    writable: bool

    def __post_init__(self) -> None:
        if not self.path.is_absolute() or _NOT_MOUNTABLE.search(str(self.path)):
            raise InputError(
                "a path that cannot be mounted into a container",
                where=repr(str(self.path))[:300],
                expected="an absolute path without commas, colons, quotes and control characters",
                remedy="set ENGINEKEEPER_HOME and ENGINEKEEPER_CACHE to other places",
            )


@dataclass(frozen=True)
class Box:
    """One run of a command in a container."""

    name: str
    """Of the container, unique among all."""

    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    """Where the command starts."""

    mounts: tuple[Mount, ...]
    user: str
    """`uid:gid`: what is written belongs to whoever asked for it."""

    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that it is given; those of a job are the cluster's choice."""


def mounts_of(
    job: Mapping[str, Any], *, own: Path, code: Path, forbidden: Path
) -> tuple[Mount, ...]:
    """Returns what a step needs: its own folder, its code, and every path that its job names.

    Raises InputError for a path that leads to a folder of keys, or holds it.
    """
    mounts = {own.absolute(): True, code.absolute(): False}
    for name, path in _paths(job):
        writable = name in WRITTEN
        place = path.parent if writable else path
        mounts[place] = mounts.get(place, False) or writable
    for path in mounts:
        _require_no_keys(path, forbidden.resolve())
    return tuple(Mount(path, writable) for path, writable in sorted(mounts.items()))


def _paths(value: object, name: str = "") -> Iterator[tuple[str, Path]]:
    """Yields the absolute paths in a job, each with the field that it stands in."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths(item, str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item, name)
    elif isinstance(value, str) and value.startswith("/"):
        path = Path(value)
        if name in WRITTEN or path.exists():
            yield name, path


def _require_no_keys(path: Path, forbidden: Path) -> None:
    real = path.resolve()
    if real == forbidden or real in forbidden.parents or forbidden in real.parents:
        raise InputError(
            "a container would see signing keys",
            where=str(path),
            actual=f"the keys are in {forbidden}",
            remedy="keep ENGINEKEEPER_CACHE and source models outside ENGINEKEEPER_HOME",
        )
