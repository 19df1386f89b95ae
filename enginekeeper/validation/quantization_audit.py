"""The quantization block against the tensors: what is promised, and what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginekeeper.specs.recipes import KV_QUANT_ALGOS
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.linears import (
    MisshapenLinearError,
    StoredLinear,
    read_linear,
)
from enginekeeper.validation.numerics.mapping import Geometry, layer_linears
from enginekeeper.validation.numerics.recipes import (
    NVFP4_BLOCK,
    LinearRecipe,
    UnknownRecipeError,
    WeightFormat,
)

_LISTED = 4


@dataclass(frozen=True)
class _Module:
    name: str
    recipe: LinearRecipe
    stored: StoredLinear


def findings(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields what the quantization block says that the tensors do not bear out."""
    block = checkpoint.quantization
    try:
        block.recipe("transformer.layers.0.attention.qkv")
    except UnknownRecipeError:
        yield _finding(
            "quant_algo",
            f"quant_algo {block.algorithm} is not known to this audit",
            block.algorithm,
            None,
            "T8",
            doubt=True,
        )
        return
    modules = list(_modules(checkpoint, geometry))
    yield from _formats(modules)
    yield from _groups(modules, block.group_size)
    yield from _prequant(checkpoint, modules)
    if block.zero_point:
        yield _finding(
            "has_zero_point",
            "has_zero_point: true, and no tensor holds zero points",
            "true",
            "false",
            "T4",
        )
    yield from _kv_cache(checkpoint, geometry)


def _modules(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[_Module]:
    """Reads the first rank's linears; the weight audit reports those that cannot be read."""
    places = [p for layer in range(geometry.layers) for p in layer_linears(layer, geometry)]
    named = [(place.layer, place.name) for place in places] + [(None, "lm_head")]
    for layer, name in named:
        _, local = checkpoint.stage(layer, f"{name}.")
        file = checkpoint.shards(layer, name)[0]
        if f"{local}weight" not in file:
            continue
        try:
            stored = read_linear(file, local.removesuffix("."))
        except MisshapenLinearError:
            continue
        yield _Module(name, checkpoint.quantization.recipe(name), stored)


def _formats(modules: list[_Module]) -> Iterator[Finding]:
    wrong = [m for m in modules if m.stored.format is not m.recipe.format]
    for quantized in (True, False):
        group = [m for m in wrong if (m.recipe.format is WeightFormat.PLAIN) is quantized]
        if not group:
            continue
        first = group[0]
        yield _finding(
            "exclude_modules" if quantized else "quant_algo",
            (
                f"{_names(group)}: excluded from quantization, and quantized"
                if quantized
                else f"{_names(group)}: to be quantized, and stored as another format"
            ),
            first.stored.format.value,
            first.recipe.format.value,
            "T8",
        )


def _groups(modules: list[_Module], stated: int | None) -> Iterator[Finding]:
    nvfp4 = [m for m in modules if m.stored.format is m.recipe.format is WeightFormat.NVFP4]
    if nvfp4 and stated not in (None, NVFP4_BLOCK):
        yield _finding(
            "group_size",
            f"group_size: {stated}; the blocks of NVFP4 have {NVFP4_BLOCK} columns",
            stated,
            NVFP4_BLOCK,
            "T3",
        )
    wrong = [
        m
        for m in modules
        if m.stored.format is m.recipe.format is WeightFormat.INT4_GROUP
        and m.stored.group != m.recipe.group_size
    ]
    if wrong:
        yield _finding(
            "group_size",
            f"group_size: {wrong[0].recipe.group_size}; the scales of {_names(wrong)} have one "
            f"value per {wrong[0].stored.group} columns",
            wrong[0].recipe.group_size,
            wrong[0].stored.group,
            "T3",
        )


def _prequant(checkpoint: Checkpoint, modules: list[_Module]) -> Iterator[Finding]:
    promised = checkpoint.quantization.prequant
    quantized = [m for m in modules if m.recipe.format is not WeightFormat.PLAIN]
    have = [m for m in quantized if m.stored.prequant is not None]
    lack = [m for m in quantized if m.stored.prequant is None]
    if promised and quantized and not have:
        yield _finding(
            "pre_quant_scale",
            f"pre_quant_scale: true, and none of the {len(quantized)} quantized linears has a "
            "prequant_scaling_factor",
            "true",
            "false",
            "T9",
        )
    elif promised and lack:
        yield _finding(
            "pre_quant_scale",
            f"pre_quant_scale: true, and {_names(lack)} lacks its prequant_scaling_factor",
            "true",
            "a vector for every linear",
            "T9",
        )
    elif not promised and have and have[0].recipe.activation != "int8_static":
        yield _finding(
            "pre_quant_scale",
            f"pre_quant_scale: false or missing, and {_names(have)} has a prequant_scaling_factor "
            "that TensorRT-LLM would not load",
            "false",
            "true",
            "T9",
        )


def _kv_cache(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    algorithm = checkpoint.quantization.kv_cache
    if algorithm not in KV_QUANT_ALGOS.values():
        yield _finding(
            "kv_cache_quant_algo",
            f"kv_cache_quant_algo {algorithm} is not known to this audit",
            algorithm,
            "FP8, INT8 or null",
            "T11",
            doubt=True,
        )
    present = [
        layer
        for layer in range(geometry.layers)
        if any(
            checkpoint.tensors(layer, f"transformer.layers.{layer}.attention.{key}")
            for key in ("kv_cache_scaling_factor", "k_cache_scaling_factor")
        )
    ]
    if algorithm is not None and len(present) < geometry.layers:
        yield _finding(
            "kv_cache_quant_algo",
            f"kv_cache_quant_algo: {algorithm}, and {geometry.layers - len(present)} of "
            f"{geometry.layers} layers have no cache scale; TensorRT-LLM would assume 1",
            len(present),
            geometry.layers,
            "T10",
        )
    elif algorithm is None and present:
        yield _finding(
            "kv_cache_quant_algo",
            f"kv_cache_quant_algo: null, and {len(present)} layers have cache scales",
            None,
            "FP8 or INT8",
            "T10",
        )


def _names(modules: list[_Module]) -> str:
    names = ", ".join(module.name for module in modules[:_LISTED])
    return names if len(modules) <= _LISTED else f"{names} and {len(modules) - _LISTED} more"


def _finding(
    field: str,
    message: str,
    actual: object,
    expected: object,
    taxonomy: str,
    *,
    doubt: bool = False,
) -> Finding:
    return Finding(
        check=f"config.quantization.{field}",
        result="inconclusive" if doubt else "fail",
        where=f"quantization.{field}",
        message=message,
        actual=actual,
        expected=expected,
        taxonomy=taxonomy,
    )
