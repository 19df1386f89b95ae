"""Quantization recipes: which numbers the weights, activations and KV cache become."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from enginekeeper.specs.acceptance import AcceptanceOverride
from enginekeeper.specs.form import FORM, fault
from enginekeeper.specs.source import Name


class RecipeName(StrEnum):
    """The recipes, named after TensorRT-LLM's quantization algorithms."""

    NONE = "none"
    FP8 = "fp8"
    FP8_PER_CHANNEL_PER_TOKEN = "fp8_per_channel_per_token"  # noqa: S105 - no password
    W8A16 = "w8a16"
    W8A8_SQ = "w8a8_sq"
    W4A16 = "w4a16"
    W4A16_AWQ = "w4a16_awq"
    W4A8_AWQ = "w4a8_awq"
    NVFP4 = "nvfp4"


class KvCache(StrEnum):
    """What the keys and values of past tokens are kept in."""

    AUTO = "auto"
    """The model's own 16-bit format."""

    FP8 = "fp8"
    INT8 = "int8"


QUANT_ALGOS: Mapping[RecipeName, str | None] = {
    RecipeName.NONE: None,
    RecipeName.FP8: "FP8",
    RecipeName.FP8_PER_CHANNEL_PER_TOKEN: "FP8_PER_CHANNEL_PER_TOKEN",
    RecipeName.W8A16: "W8A16",
    RecipeName.W8A8_SQ: "W8A8_SQ_PER_CHANNEL",
    RecipeName.W4A16: "W4A16_AWQ",
    RecipeName.W4A16_AWQ: "W4A16_AWQ",
    RecipeName.W4A8_AWQ: "W4A8_AWQ",
    RecipeName.NVFP4: "NVFP4",
}
"""The `quant_algo` of each recipe's checkpoint, as ModelOpt writes it.

It has no name of its own for plain group-wise INT4: what tells `w4a16` from `w4a16_awq` is
`pre_quant_scale`, which the export claims for both and the repair withdraws from the first.
"""

KV_QUANT_ALGOS: Mapping[KvCache, str | None] = {
    KvCache.AUTO: None,
    KvCache.FP8: "FP8",
    KvCache.INT8: "INT8",
}
"""The `kv_cache_quant_algo` of a checkpoint."""

SMOOTHED = frozenset({RecipeName.W4A16_AWQ, RecipeName.W4A8_AWQ})
"""Recipes whose checkpoint says `pre_quant_scale: true`; SmoothQuant's does not mention it."""

GROUPED = frozenset({RecipeName.W4A16, RecipeName.W4A16_AWQ, RecipeName.W4A8_AWQ})
"""Recipes whose weights share a scale per group of input columns of a chosen size."""

ROUNDS_ACTIVATIONS = frozenset(
    {
        RecipeName.FP8,
        RecipeName.FP8_PER_CHANNEL_PER_TOKEN,
        RecipeName.W8A8_SQ,
        RecipeName.W4A8_AWQ,
        RecipeName.NVFP4,
    }
)

CALIBRATED = frozenset(
    {
        RecipeName.FP8,
        RecipeName.W8A8_SQ,
        RecipeName.W4A16_AWQ,
        RecipeName.W4A8_AWQ,
        RecipeName.NVFP4,
    }
)
"""Recipes for which text is run through the model, so that the text changes the result."""

GroupSize = Literal[16, 32, 64, 128, 256]

DEFAULT_GROUP_SIZE = 128
"""TensorRT-LLM's own, in QuantConfig."""

NVFP4_GROUP_SIZE = 16
"""Fixed by the number format: sixteen E2M1 values share one E4M3 scale."""

_Pattern = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, kw_only=True, config=FORM)
class Recipe:
    """One recipe as asked for; a bare name stands for the recipe with its defaults."""

    recipe: RecipeName
    """Name of the recipe: none, or a TensorRT-LLM quantization algorithm."""

    kv_cache: KvCache = KvCache.AUTO
    """Format of the KV cache: auto keeps 16 bits."""

    group_size: GroupSize | None = None
    """Input columns that share one weight scale; only for w4a16 and the AWQ recipes (128)."""

    exclude_modules: Annotated[tuple[_Pattern, ...], Field(strict=False)] = ()
    """Modules left unquantized, as name patterns; lm_head always is."""

    repair: Literal["auto", "off"] = "auto"
    """Whether known export defects are put right, and recorded, before the engine is built."""

    acceptance: AcceptanceOverride | None = None
    """Limits that differ from the spec's for this recipe."""

    label: Name | None = None
    """The recipe's part of the identifier, to tell two uses of one recipe apart."""

    def __post_init__(self) -> None:
        if self.group_size is not None and self.recipe not in GROUPED:
            raise fault(
                f"{self.recipe} has no groups to choose a size for",
                expected=f"no group_size, or one of {', '.join(sorted(GROUPED))}",
                field="group_size",
            )

    @property
    def group(self) -> int | None:
        """Input columns that share one scale, defaults applied; None if the recipe has none."""
        if self.recipe is RecipeName.NVFP4:
            return NVFP4_GROUP_SIZE
        if self.recipe in GROUPED:
            return self.group_size or DEFAULT_GROUP_SIZE
        return None

    @property
    def rounds_activations(self) -> bool:
        """Whether activations, keys or values are rounded; a verdict then measures its floor."""
        return self.recipe in ROUNDS_ACTIVATIONS or self.kv_cache is not KvCache.AUTO

    @property
    def calibrated(self) -> bool:
        """Whether the calibration text changes the checkpoint."""
        return self.recipe in CALIBRATED or self.kv_cache is not KvCache.AUTO

    @property
    def part(self) -> str:
        """Its part of an identifier: the label, or else what it is."""
        return self.label or self.kind

    @property
    def kind(self) -> str:
        """What it is, whatever it is called: `w8a16`, `w8a16-kvfp8`."""
        suffix = "" if self.kv_cache is KvCache.AUTO else f"-kv{self.kv_cache}"
        return f"{self.recipe}{suffix}"


# After a validator that runs before, pydantic sees Python values and no longer JSON; a list is then
# no tuple to it unless it is told to be less strict, as in exclude_modules above.
def _spelled_out(value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    return {"recipe": value} if isinstance(value, str) else value


RecipeEntry = Annotated[
    Recipe, BeforeValidator(_spelled_out, json_schema_input_type=RecipeName | Recipe)
]
"""A recipe in a list: its name, or a mapping."""
