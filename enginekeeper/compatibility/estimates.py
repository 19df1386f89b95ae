"""What a build costs, in bytes and seconds, before it is made.

Bytes are exact arithmetic on the formats ModelOpt 0.47.0 writes (excluded modules are left out:
under 1 %). Seconds are measurements on a 2-core machine (AMD EPYC, AVX-512) with
SmolLM2-135M, scaled by the number of parameters; expect a factor of two either way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from enginekeeper.compatibility.sizes import heaviest
from enginekeeper.specs.recipes import KvCache, RecipeName

if TYPE_CHECKING:
    from collections.abc import Callable

    from enginekeeper.compatibility.facts import Facts, ModelFacts
    from enginekeeper.compatibility.sizes import Block
    from enginekeeper.specs.variants import Variant

_FORMATS: dict[RecipeName, tuple[float, Callable[[int, int, int], float]]] = {
    RecipeName.NONE: (2, lambda _rows, _columns, _group: 0),
    RecipeName.FP8: (1, lambda _rows, _columns, _group: 8),
    RecipeName.FP8_PER_CHANNEL_PER_TOKEN: (1, lambda rows, _columns, _group: 4 * rows),
    RecipeName.W8A16: (1, lambda rows, _columns, _group: 4 * rows),
    RecipeName.W8A8_SQ: (1, lambda rows, columns, _group: 4 * rows + 2 * columns + 4),
    RecipeName.W4A16: (0.5, lambda rows, columns, group: 4 * rows * columns / group),
    RecipeName.W4A16_AWQ: (
        0.5,
        lambda rows, columns, group: 4 * rows * columns / group + 2 * columns,
    ),
    RecipeName.W4A8_AWQ: (
        0.5,
        lambda rows, columns, group: 4 * rows * columns / group + 2 * columns + 8,
    ),
    RecipeName.NVFP4: (0.5, lambda rows, columns, group: rows * columns / group + 8),
}
"""Bytes for each weight, and for the scales of a linear of (rows, columns) in groups."""

_KV_BYTES = {KvCache.AUTO: 2, KvCache.FP8: 1, KvCache.INT8: 1}

_MEASURED_PARAMETERS = 134_515_008
"""SmolLM2-135M, on which the seconds below were measured."""

_QUANTIZE_SECONDS = {
    RecipeName.NONE: 15,
    RecipeName.FP8: 33,
    RecipeName.FP8_PER_CHANNEL_PER_TOKEN: 17,
    RecipeName.W8A16: 17,
    RecipeName.W8A8_SQ: 49,
    RecipeName.W4A16: 23,
    RecipeName.W4A16_AWQ: 300,
    RecipeName.W4A8_AWQ: 300,
    RecipeName.NVFP4: 33,
}
"""ModelOpt on the CPU with about 1024 calibration tokens; `none` and NVFP4 are not measured but
taken from their neighbours."""

_MEASURED_CALIBRATION_TOKENS = 1024
_AWQ = frozenset({RecipeName.W4A16_AWQ, RecipeName.W4A8_AWQ})

_COMPILE_SECONDS = 33
"""One decoder layer's graphs, prefill 27 s and decode 6 s; the same for every model of a shape,
because a layer is compiled once and its weights are inputs."""

_GRAPH_BYTES = 3 * 4_600_000
"""Prefill, decode and head; 4.6 MB was measured for a whole model's graph without weights."""

_SCORED_TOKENS = {"smoke": 2_000, "standard": 12_000}
"""Tokens of each probe suite, to the thousand; tokenizers differ."""

_ENGINE_TOKENS_PER_SECOND = 160
_REFERENCE_TOKENS_PER_SECOND = 70
_REFERENCE_START_SECONDS = 35
"""vLLM on the CPU."""

_SOURCE_TOKENS_PER_SECOND = 60
_TWIN_TOKENS_PER_SECOND = 32
"""Transformers in float32, start-up and writing the twin included: the source's 2,000 tokens took
35 s, a recipe twin's 57 to 77 s; a nudged twin takes the same again."""

REFERENCE = "reference"
"""The stage that the variants of one spec share."""

_GPU_START_SECONDS, _GPU_SECONDS_PER_BILLION = 10, 15
"""From reported trtllm-build times (TensorRT-LLM 0.8 to 1.0): Qwen3-0.6B 18 s, Llama-3-8B 129 s,
Llama-2-7B FP8 163 s. Nothing of this has been measured by Enginekeeper."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one variant will cost if everything of it has to be made."""

    seconds: float | None
    """Sum of the stages; None if the model's size is not known."""

    stages: dict[str, float]
    """Seconds of each stage."""

    basis: str
    """Where the seconds come from."""

    checkpoint_bytes: int | None
    engine_bytes: int | None
    weight_bytes_per_rank: int | None
    kv_bytes_per_rank: int

    def without_reference(self) -> Estimate:
        """Returns what is left to pay where another variant of the spec has made the reference."""
        stages = {name: cost for name, cost in self.stages.items() if name != REFERENCE}
        seconds = None if self.seconds is None else sum(stages.values())
        return replace(self, stages=stages, seconds=seconds)

    def as_dict(self) -> dict[str, Any]:
        """Returns the estimate as JSON values."""
        return asdict(self)


def block_bytes(block: Block, recipe: RecipeName, group: int | None, ranks: int = 1) -> float:
    """Returns the bytes of one layer of a block, on one of the ranks that share it."""
    per_weight, overhead = _FORMATS[recipe]
    return 2.0 * block.beside + sum(
        (per_weight * one.weights + one.count * overhead(one.rows, one.columns, group or 1))
        / (1 if one.whole else ranks)
        for one in block.linears
    )


def weight_bytes(variant: Variant, model: ModelFacts) -> int:
    """Returns the bytes of a checkpoint's weights, all ranks together.

    ModelOpt stores the output projection beside the embedding table even where they are tied.
    """
    recipe = variant.recipe
    tables = 2 * 2 * model.vocab_size * model.hidden_size
    layers = sum(
        block.layers * block_bytes(block, recipe.recipe, recipe.group) for block in model.blocks
    )
    return int(tables + layers + 2 * model.hidden_size)


def weight_bytes_per_rank(variant: Variant, model: ModelFacts) -> int:
    """Returns the weight bytes of the rank with the most layers and at least one table."""
    recipe, parallel = variant.recipe, variant.parallel
    tables = 2 * (2 if parallel.pipeline == 1 else 1) * model.vocab_size * model.hidden_size
    layers = sum(
        taken * block_bytes(block, recipe.recipe, recipe.group, parallel.tensor)
        for block, taken in heaviest(model.blocks, ceil(model.num_layers / parallel.pipeline))
    )
    return int(layers + tables / parallel.tensor + 2 * model.hidden_size)


def kv_bytes_per_token(variant: Variant, model: ModelFacts) -> int:
    """Returns the bytes of one token's keys and values in all layers, all ranks together."""
    if model.blocks:
        values = sum(block.layers * (block.split + block.whole) for block in model.blocks)
    else:
        values = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    return values * _KV_BYTES[variant.recipe.kv_cache]


def kv_bytes_per_rank(variant: Variant, model: ModelFacts) -> int:
    """Returns the KV cache of the declared limits on the rank with the most layers.

    Every layer keeps every token: an engine keeps no less for a window unless its server is told.
    """
    parallel = variant.parallel
    layers = ceil(model.num_layers / parallel.pipeline) / model.num_layers
    latent = any(block.whole for block in model.blocks)  # which every rank keeps whole
    shared = ceil(model.num_kv_heads / parallel.tensor) / model.num_kv_heads
    token = kv_bytes_per_token(variant, model) * layers * (1 if latent else shared)
    return int(token * variant.limits.cached_tokens)


def estimate(variant: Variant, facts: Facts) -> Estimate:
    """Returns what a variant costs to make from nothing; reuse makes it cheaper."""
    model = facts.model
    cache = kv_bytes_per_rank(variant, model)
    if model.parameters is None:
        return Estimate(
            seconds=None,
            stages={},
            basis=f"the size of a {model.architecture} is not known",
            checkpoint_bytes=None,
            engine_bytes=None,
            weight_bytes_per_rank=None,
            kv_bytes_per_rank=cache,
        )
    on_cpu = facts.gpu is None
    stages = _cpu_stages(variant, model.parameters) if on_cpu else _gpu_stages(model.parameters)
    weights = weight_bytes(variant, model)
    return Estimate(
        seconds=sum(stages.values()),
        stages=stages,
        basis="measured on 2 CPU cores, scaled by parameters"
        if on_cpu
        else "builds reported by others; quantization and scoring not included",
        checkpoint_bytes=weights,
        engine_bytes=weights + (_GRAPH_BYTES if on_cpu else 0),
        weight_bytes_per_rank=weight_bytes_per_rank(variant, model),
        kv_bytes_per_rank=cache,
    )


def _cpu_stages(variant: Variant, parameters: int) -> dict[str, float]:
    scale = parameters / _MEASURED_PARAMETERS
    recipe, calibration = variant.recipe, variant.calibration
    quantize = _QUANTIZE_SECONDS[recipe.recipe] * scale
    if recipe.recipe in _AWQ:  # its search is all calibration; elsewhere loading dominates
        quantize *= calibration.samples * calibration.max_tokens / _MEASURED_CALIBRATION_TOKENS
    tokens = _SCORED_TOKENS[variant.suite]
    arms = 2 if recipe.rounds_activations else 1  # the floor is a second, nudged twin
    return {
        "quantize": quantize,
        "compile": _COMPILE_SECONDS,
        REFERENCE: _REFERENCE_START_SECONDS
        + tokens * scale / _REFERENCE_TOKENS_PER_SECOND
        + tokens * scale / _SOURCE_TOKENS_PER_SECOND,
        "twin": arms * tokens * scale / _TWIN_TOKENS_PER_SECOND,
        "score": tokens * scale / _ENGINE_TOKENS_PER_SECOND,
    }


def _gpu_stages(parameters: int) -> dict[str, float]:
    return {"compile": _GPU_START_SECONDS + _GPU_SECONDS_PER_BILLION * parameters / 1e9}
