"""Which side of the checkpoint a fault is on: the export, or builder, kernels and runtime.

Recipe twin, checkpoint twin and engine are three points: from the first to the second lies what
the export got wrong, from the second to the third what came after it. Both distances are shown
and decide nothing: the distance from the recipe twin to the engine does, which they make up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from enginekeeper.validation.checks import Check, Quantity, shown
from enginekeeper.validation.divergence import Comparison, compare, kl_on_partition
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.scores import Scores

EXPORT, BUILDER = "fidelity.export", "fidelity.builder"

_MEANINGS = {
    EXPORT: "mean KL(recipe twin ‖ checkpoint twin)",
    BUILDER: "mean KL(checkpoint twin ‖ engine)",
}

_NEXT_TO_NOTHING = 0.1
"""Share of the whole distance below which a side has no part in it."""

EQUAL = "the checkpoint is what its recipe makes of the source, number by number"
_EQUALS = "equals"


def as_the_recipe(twin: Scores) -> Scores:
    """Returns the scores of a checkpoint twin that is the recipe twin, number by number."""
    at = {**twin.at, "twin": twin.top_logprobs}
    return replace(twin, at=at, meta={**twin.meta, _EQUALS: "twin"})


def sides(seen: Evidence, policy: AcceptancePolicy) -> tuple[Check, ...]:
    """Shows how far the checkpoint twin is from the recipe twin, and the engine from it."""
    twin, checkpoint = seen.twin, seen.checkpoint_twin
    if checkpoint is None and seen.no_checkpoint_twin is not None:
        return tuple(
            Check(name, "not run", meaning, note=seen.no_checkpoint_twin)
            for name, meaning in _MEANINGS.items()
        )
    if twin is None or checkpoint is None or twin.not_finite:
        return ()
    export = compare(twin, checkpoint, seen.tokens, at="twin")
    builder = _from_checkpoint(seen, checkpoint)
    equal = EQUAL if _EQUALS in checkpoint.meta else None
    return (
        _shown(EXPORT, export, policy, equal),
        _shown(BUILDER, builder, policy, None),
    )


def _from_checkpoint(seen: Evidence, checkpoint: Scores) -> Comparison:
    """Compares at the recipe twin's best tokens, where both were scored: a lower bound, too."""
    engine, there = seen.engine, checkpoint.at["twin"]
    kept = checkpoint.finite & engine.finite
    kl = np.zeros(engine.positions)
    kl[kept] = kl_on_partition(there[kept], engine.at["twin"][kept])
    return Comparison(seen.tokens, engine.offsets, kept, kl, np.zeros_like(kept), np.zeros(len(kl)))


def _shown(name: str, found: Comparison, policy: AcceptancePolicy, note: str | None) -> Check:
    quantity = Quantity(
        name,
        _MEANINGS[name],
        "nats per position",
        found.per_prompt(found.kl),
        found.sizes,
        found.tokens.strata,
        least=0.0,
    )
    check = shown(quantity, policy.confidence)
    if check.value is None and found.positions:
        check = replace(check, value=found.mean(found.kl))  # too few prompts for bounds
    lost = f"{found.excluded} rows are not finite" if found.excluded else None
    said = "; ".join(filter(None, (lost, note)))
    return replace(check, note=said or None)


def blamed(checks: tuple[Check, ...], kl: Check) -> str | None:
    """Says which side a failed engine's distance `kl` from its recipe lies on, if it is one.

    A side within the limit of fidelity, which a recipe's own floor may set, has no part in it.
    Where a side left rows out that `kl` is over, nobody is blamed.
    """
    export, builder = (
        next((check for check in checks if check.name == name), None) for name in (EXPORT, BUILDER)
    )
    if export is None or builder is None or min(export.positions, builder.positions) < kl.positions:
        return None
    if export.value is None or builder.value is None or kl.limit is None:
        return None
    return _side(export.value, builder.value, kl.limit)


def _side(export: float, builder: float, limit: float) -> str | None:
    if export <= max(limit, _NEXT_TO_NOTHING * builder) and builder > limit:
        return "its checkpoint is; what came after it is not: builder, kernels or runtime"
    if builder <= max(limit, _NEXT_TO_NOTHING * export) and export > limit:
        return "it is what its checkpoint says: the export is not its recipe"
    if max(export, builder) <= limit:
        return None
    return "neither is its checkpoint, nor is it what its checkpoint says"
