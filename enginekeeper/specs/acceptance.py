"""The acceptance policy: how far an engine may be from its source and still be deployable.

Every default is here, with its reason. Two different questions have separate limits:

- *fidelity*: is the engine what its recipe says? Compared with the recipe twin. A fault shows here.
- *quality*: what does the recipe cost? Compared with the unquantized source. An honest but costly
  recipe shows here, and a user may accept it by name.

Where a number below says "measured", it was measured on SmolLM2-135M, on which honest recipes cost
10 to 50 times what they cost on an 8B model; a policy for a larger model can be tighter.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM

MAX_FIDELITY_KL = 0.0025
"""Ten times the floor that bf16 arithmetic alone leaves between an engine and its twin (2.2e-4 to
3.1e-4 nats measured, for all recipes and for none), and below the faults with a behaviour of their
own: RMS-norm epsilon 1e-3 for 1e-5 costs 4.0e-3, a rope base of 1e4 for 1e5 0.17. Faults of one
tensor (a 3 % gain: 2e-4) are below any such limit; the weight audit is there for them."""

MAX_PERPLEXITY_RATIO = 1.10
"""Lets pass what honest 8-bit weights (1.005) and FP8 (1.09) cost, and refuses SmoothQuant (1.26)
and INT4 rounding (1.34) on the small model, and a wrong rope base (1.14)."""

MAX_QUALITY_KL = 0.10
"""Above FP8 with quantized activations (0.067 measured), below SmoothQuant (0.18), INT4 in groups
of 64 (0.62) and W8A16 with a wrong rope base (0.256)."""

MIN_TOP1_AGREEMENT = 0.85
"""What a mean KL of about 0.1 nats does to the most probable token: measured agreement was 90.8 %
at 0.036 nats, 87.0 % at 0.068, 81.3 % at 0.13."""

CONFIDENCE = 0.99
"""One chance in a hundred to call an engine good or bad wrongly at a limit; in between, the
verdict is inconclusive, and more tokens are the remedy."""

_Nats = Annotated[float, Field(gt=0, le=50)]
_Ratio = Annotated[float, Field(gt=1, le=1000)]
_Share = Annotated[float, Field(gt=0, lt=1)]
_Confidence = Annotated[float, Field(gt=0.5, lt=1)]


@dataclass(frozen=True, kw_only=True, config=FORM)
class Acceptance:
    """Limits an engine has to keep, with a stated confidence, to pass."""

    max_fidelity_kl: _Nats = MAX_FIDELITY_KL
    """Largest mean KL divergence from the recipe twin to the engine, in nats per token."""

    max_quality_kl: _Nats = MAX_QUALITY_KL
    """Largest mean KL divergence from the source model to the engine, in nats per token."""

    max_perplexity_ratio: _Ratio = MAX_PERPLEXITY_RATIO
    """Largest perplexity of the engine divided by that of the source; 1.10 is ten percent worse."""

    min_top1_agreement: _Share = MIN_TOP1_AGREEMENT
    """Smallest share of positions, 0 to 1, where engine and source agree on the likeliest token."""

    confidence: _Confidence = CONFIDENCE
    """Confidence of the intervals the limits are applied to, above 0.5 and below 1."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class AcceptanceOverride:
    """The limits that differ for one recipe; a field left out keeps the spec's value."""

    max_fidelity_kl: _Nats | None = None
    """Largest mean KL divergence from the recipe twin to the engine, in nats per token."""

    max_quality_kl: _Nats | None = None
    """Largest mean KL divergence from the source model to the engine, in nats per token."""

    max_perplexity_ratio: _Ratio | None = None
    """Largest perplexity of the engine divided by that of the source."""

    min_top1_agreement: _Share | None = None
    """Smallest share of positions, 0 to 1, where engine and source agree on the likeliest token."""

    confidence: _Confidence | None = None
    """Confidence of the intervals the limits are applied to, above 0.5 and below 1."""

    def applied_to(self, policy: Acceptance) -> Acceptance:
        """Returns the policy with this recipe's own limits in place."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(policy, **{name: value for name, value in own.items() if value is not None})
