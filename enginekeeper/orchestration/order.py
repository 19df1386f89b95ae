"""What the build flow is asked to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BuildOrder:
    """What the build flow is asked to do."""

    path: str
    """Path of the build spec."""

    only: tuple[str, ...] = ()
    audits: bool = True
    channel: str | None = None
