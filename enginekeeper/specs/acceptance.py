"""The acceptance policy: how far an engine may be from its source and still be deployable.

Every default is here or in `data/acceptance.json`, with its reason. Two different questions have
separate limits:

- *fidelity*: is the engine what its recipe says? Compared with the recipe twin. A fault shows here.
- *quality*: what does the recipe cost? Compared with the unquantized source. An honest but costly
  recipe shows here, and a user may accept it by name.

What may be paid depends on the recipe: 8-bit weights that cost what FP8 activations do are no
honest 8-bit weights. So a limit is the first that there is of these: the spec's for this recipe,
the spec's, the recipe's default, the default here. A verdict says which.

Where a number below says "measured", it was measured on SmolLM2-135M, on which honest recipes cost
10 to 50 times what they cost on an 8B model; a policy for a larger model can be tighter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM
from enginekeeper.tables import read_table

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
    """The limits an engine has to keep, with a stated confidence, to pass."""

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
    """Limits that somebody set; a field left out keeps the recipe's default."""

    max_fidelity_kl: _Nats | None = None
    """Largest mean KL divergence from the recipe twin to the engine, in nats per token."""

    max_quality_kl: _Nats | None = None
    """Largest mean KL divergence from the source model to the engine, in nats per token."""

    max_perplexity_ratio: _Ratio | None = None
    """Largest perplexity of the engine divided by that of the source; 1.10 is ten percent worse."""

    min_top1_agreement: _Share | None = None
    """Smallest share of positions, 0 to 1, where engine and source agree on the likeliest token."""

    confidence: _Confidence | None = None
    """Confidence of the intervals the limits are applied to, above 0.5 and below 1."""

    @property
    def given(self) -> Mapping[str, float]:
        """The limits that were set."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True, kw_only=True, config=FORM)
class RecipeDefault:
    """What a recipe, or a rounded cache, may cost, and why."""

    max_quality_kl: _Nats
    max_perplexity_ratio: _Ratio
    min_top1_agreement: _Share
    why: str
    source: str


@dataclass(frozen=True, kw_only=True, config=FORM)
class RecipeDefaults:
    """The table: by recipe, and by the format of the cache, which allows what is more."""

    recipes: Mapping[str, RecipeDefault]
    kv_caches: Mapping[str, RecipeDefault]


Origins = Mapping[str, str]
"""Where each limit came from, in words."""

_TABLE = Path(__file__).parent / "data" / "acceptance.json"


@cache
def recipe_defaults() -> RecipeDefaults:
    """Reads the table of what recipes may cost."""
    return read_table(_TABLE, TypeAdapter(RecipeDefaults))


def acceptance_of(
    recipe: str,
    kv_cache: str,
    of_spec: AcceptanceOverride | None = None,
    of_recipe: AcceptanceOverride | None = None,
) -> tuple[Acceptance, Origins]:
    """Returns the limits of a recipe, and where each came from."""
    limits: dict[str, float] = {}
    origins = dict.fromkeys((field.name for field in fields(Acceptance)), "default")
    table = recipe_defaults()
    own = table.recipes.get(recipe)
    if own is not None:
        limits |= _limits_of(own)
        origins |= dict.fromkeys(limits, f"default of {recipe}")
    cached = table.kv_caches.get(kv_cache)
    if own is not None and cached is not None:
        for name, value in _limits_of(cached).items():
            laxer = value < limits[name] if name.startswith("min_") else value > limits[name]
            if laxer:
                limits[name], origins[name] = value, f"default of a cache in {kv_cache}"
    for given, origin in ((of_spec, "spec"), (of_recipe, "spec, for this recipe")):
        if given is not None:
            limits |= given.given
            origins |= dict.fromkeys(given.given, origin)
    return replace(Acceptance(), **limits), origins


def _limits_of(default: RecipeDefault) -> dict[str, float]:
    return {
        "max_quality_kl": default.max_quality_kl,
        "max_perplexity_ratio": default.max_perplexity_ratio,
        "min_top1_agreement": default.min_top1_agreement,
    }
