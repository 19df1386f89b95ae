"""What an engine must show to be accepted: limits with their units, and the confidence asked."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from enginekeeper.errors import InputError


@dataclass(frozen=True)
class AcceptancePolicy:
    """The limits of one verdict; every field is recorded in it."""

    max_fidelity_kl: float = 0.0025
    """Mean KL(recipe twin ‖ engine), nats per position.

    Ten times the floor of 2.4e-4 that bfloat16 arithmetic alone was measured to cause.
    """

    max_perplexity_ratio: float = 1.10
    """Perplexity of the engine over that of the source."""

    max_quality_kl: float = 0.10
    """Mean KL(source ‖ engine), nats per position."""

    min_top1_agreement: float = 0.85
    """Share of positions where engine and source prefer the same token."""

    confidence: float = 0.99
    """Of each pass; failures are held to it jointly, over all checks of a line."""

    def __post_init__(self) -> None:
        """Raises InputError on a limit that could not mean anything."""
        ranges = {
            "max_fidelity_kl": (0.0, math.inf),
            "max_perplexity_ratio": (1.0, math.inf),
            "max_quality_kl": (0.0, math.inf),
            "min_top1_agreement": (0.0, 1.0),
            "confidence": (0.5, 1.0),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low < value < high:
                raise InputError(
                    "not a usable limit",
                    where=f"acceptance.{name}",
                    actual=value,
                    expected=f"between {low} and {high}, both excluded",
                )

    def as_dict(self) -> dict[str, float]:
        """Returns the fields as they stand in a verdict."""
        return asdict(self)
