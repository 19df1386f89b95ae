"""What became of each variant: the typed results of the build flow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Ending(StrEnum):
    """How a variant ended."""

    REUSED = "reused"
    JUDGED = "judged"
    EXPORTED = "exported"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """One variant's end: an engine with its verdict, or why there is none."""

    variant: str
    ending: Ending
    result: str | None
    """`pass`, `fail` or `inconclusive`; None where nothing was judged."""

    summary: str
    engine: str | None = None
    """Digest of the engine."""

    path: str | None = None
    """Where the engine's documents lie in the artifact store."""

    fidelity: str | None = None
    quality: str | None = None
    channel: str | None = None
    """What happened when it was put into the channel asked for."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage that was made in this run; stages that were reused are absent."""

    error: dict[str, Any] | None = None
    """The error's fields, where a stage failed."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome as JSON values."""
        return asdict(self)
