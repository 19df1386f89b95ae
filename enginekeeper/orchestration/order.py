"""What the build flow is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from registry.names import check_component


@dataclass(frozen=True)
class BuildOrder:
    """What the build flow is asked to do."""

    path: str
    """Path of the build spec."""

    only: tuple[str, ...] = ()
    """Selectors of variants; none means all."""

    skip: tuple[str, ...] = ()
    """Selectors of variants to leave out."""

    audits: bool = True
    whole_suite: bool = False
    """Whether every prompt is scored although fewer would decide."""
    channel: str | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRecordError for a name that no channel can have: hours may lie ahead."""
        if self.channel is not None:
            check_component(self.channel, where="channel")
