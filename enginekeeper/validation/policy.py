"""What an engine must show to be accepted: limits with their units, and the confidence asked.

The values come from a spec, which checks them; the defaults and their reasons are in
`enginekeeper.specs.acceptance` and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class AcceptancePolicy:
    """The limits of one verdict; every field is recorded in it."""

    max_fidelity_kl: float
    """Mean KL(recipe twin ‖ engine), nats per position."""

    max_perplexity_ratio: float
    """Perplexity of the engine over that of the source."""

    max_quality_kl: float
    """Mean KL(source ‖ engine), nats per position."""

    min_top1_agreement: float
    """Share of positions where engine and source prefer the same token."""

    confidence: float
    """Of each pass; failures are held to it jointly, over all checks of a line."""

    def as_dict(self) -> dict[str, float]:
        """Returns the fields as they stand in a verdict."""
        return asdict(self)
