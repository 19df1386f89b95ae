"""The nine recipes as ModelOpt quantization configs.

Each recipe starts from the configuration ModelOpt ships under its own name, so that a checkpoint
means what NVIDIA's documentation says it means; only the group size, the KV cache, the exclusions
and the coarseness of the AWQ search are set here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from _step import Refusal

AWQ_ALPHA_STEP = 0.25
"""Step of the AWQ search over alpha in [0, 1].

ModelOpt's own 0.1 makes 11 forward passes where 0.25 makes 5; on the CPU the passes are the cost.
"""

INT8_KV_ENTRY: dict[str, Any] = {
    "quantizer_name": "*[kv]_bmm_quantizer",
    "cfg": {"num_bits": 8, "axis": None},
}
"""ModelOpt names no INT8 KV config; this is its FP8 one with eight integer bits."""


@dataclass(frozen=True)
class Recipe:
    """What ModelOpt has to be told to make one recipe."""

    preset: str | None
    """Name of the configuration in `modelopt.torch.quantization`; None leaves weights alone."""
    calibrated: bool
    """Whether activations are observed, so that the calibration text changes the result."""
    grouped: bool = False
    """Whether weights share a scale per group of input columns of a chosen size."""


RECIPES: dict[str, Recipe] = {
    "none": Recipe(preset=None, calibrated=False),
    "fp8": Recipe(preset="FP8_DEFAULT_CFG", calibrated=True),
    "fp8_per_channel_per_token": Recipe(preset="FP8_PER_CHANNEL_PER_TOKEN_CFG", calibrated=False),
    "w8a16": Recipe(preset="INT8_WEIGHT_ONLY_CFG", calibrated=False),
    "w8a8_sq": Recipe(preset="INT8_SMOOTHQUANT_CFG", calibrated=True),
    "w4a16": Recipe(preset="INT4_BLOCKWISE_WEIGHT_ONLY_CFG", calibrated=False, grouped=True),
    "w4a16_awq": Recipe(preset="INT4_AWQ_CFG", calibrated=True, grouped=True),
    "w4a8_awq": Recipe(preset="W4A8_AWQ_BETA_CFG", calibrated=True, grouped=True),
    "nvfp4": Recipe(preset="NVFP4_DEFAULT_CFG", calibrated=True),
}


@dataclass(frozen=True)
class QuantizationRequest:
    """The part of the job that says which numbers the weights become."""

    recipe: str
    kv_cache: str
    group_size: int
    exclude_modules: tuple[str, ...]

    @property
    def traits(self) -> Recipe:
        """The recipe's row of the table; refuses a name that has none."""
        try:
            return RECIPES[self.recipe]
        except KeyError:
            raise Refusal(
                "unknown-recipe",
                f"no recipe is called {self.recipe!r}",
                where="recipe",
                expected=", ".join(RECIPES),
                actual=self.recipe,
            ) from None

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is quantized: neither weights nor the KV cache."""
        return self.traits.preset is None and self.kv_cache == "auto"

    @property
    def needs_calibration(self) -> bool:
        """Whether text has to be run through the model: activations or the KV cache are scaled."""
        return self.traits.calibrated or self.kv_cache != "auto"


def modelopt_config(request: QuantizationRequest) -> dict[str, Any] | None:
    """Returns the configuration for `mtq.quantize`, or None when nothing is to be quantized."""
    import modelopt.torch.quantization as mtq  # noqa: PLC0415 - seconds to import; refusals come first

    recipe = request.traits
    if recipe.preset is None:
        config: dict[str, Any] = {
            "quant_cfg": [{"quantizer_name": "*", "enable": False}],
            "algorithm": "max",
        }
    else:
        config = copy.deepcopy(getattr(mtq, recipe.preset))
    if recipe.grouped:
        _set_group_size(config, request.group_size)
    if request.recipe.endswith("_awq"):
        config["algorithm"] = {"method": "awq_lite", "alpha_step": AWQ_ALPHA_STEP}
    kv_entries = _kv_cache_entries(request.kv_cache, mtq)
    config["quant_cfg"] += kv_entries
    # Not `pattern.*`: that would reach the KV cache's quantizers, which sit beside the linears.
    config["quant_cfg"] += [
        {"quantizer_name": f"{pattern}.{quantizer}*", "enable": False}
        for pattern in request.exclude_modules
        for quantizer in ("weight_quantizer", "input_quantizer")
    ]
    return config if recipe.preset is not None or kv_entries else None


def _set_group_size(config: dict[str, Any], group_size: int) -> None:
    """Replaces ModelOpt's block of 128 columns in every block-wise quantizer."""
    for entry in config["quant_cfg"]:
        attributes = entry.get("cfg") or []
        for quantizer in attributes if isinstance(attributes, list) else [attributes]:
            if "block_sizes" in quantizer:
                quantizer["block_sizes"][-1] = group_size


def _kv_cache_entries(kv_cache: str, mtq: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a module
    """Returns the quantizers of the KV cache; `auto` keeps it in the model's own precision."""
    if kv_cache == "auto":
        return []
    if kv_cache == "fp8":
        return copy.deepcopy(list(mtq.FP8_KV_CFG["quant_cfg"]))
    if kv_cache == "int8":
        return [copy.deepcopy(INT8_KV_ENTRY)]
    raise Refusal(
        "unknown-kv-cache",
        f"no KV cache format is called {kv_cache!r}",
        where="kv_cache",
        expected="auto, fp8, int8",
        actual=kv_cache,
    )
