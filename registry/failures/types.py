"""A failure as the catalogue remembers it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from registry.digests import Digest
from registry.types import Entity


@dataclass(frozen=True)
class BuildFailure(Entity):
    """A build that failed, and until when nobody is to try it again by the way."""

    key: Digest
    """Of the engine that would have come of it: everything that the build depends on."""

    variant: str
    toolchain: str
    group: str
    """The kind of cause."""

    pattern: str
    """What knew the cause in the log."""

    cause: str
    remedy: str
    log: tuple[str, ...]
    """The lines that decided."""

    simulated: bool
    """Whether a double failed; its key is never that of a real build."""

    failed_at: datetime
    expires_at: datetime
    actor: str
