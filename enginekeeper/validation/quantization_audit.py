"""The quantization block against the tensors: what is promised, and what is there."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

from enginekeeper.specs.recipes import KV_QUANT_ALGOS
from enginekeeper.validation.checkpoint import DEFAULT_EXCLUDED, Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.linears import (
    MisshapenLinearError,
    StoredLinear,
    read_linear,
)
from enginekeeper.validation.numerics.mapping import Geometry, layer_linears
from enginekeeper.validation.numerics.recipes import (
    CALIBRATED,
    NVFP4_BLOCK,
    QUANT_ALGOS,
    LinearRecipe,
    UnknownRecipeError,
    WeightFormat,
    algorithm_that_stores,
)

_LISTED = 4

_RELEASES = "TensorRT-LLM 1.2 and 1.3"

_UNJUDGED_CACHES = ("NVFP4",)
"""Cache formats of TensorRT-LLM that this audit does not know."""


@dataclass(frozen=True)
class _Module:
    name: str
    recipe: LinearRecipe
    stored: StoredLinear
    normed: bool
    """Whether a norm feeds it."""

    @property
    def fits(self) -> bool:
        """Whether the tensor is in the format that the block gives it."""
        return self.stored.format is self.recipe.format

    @property
    def usually_plain(self) -> bool:
        """Whether TensorRT-LLM leaves such a module unquantized where nothing is said."""
        return any(fnmatch.fnmatchcase(self.name, pattern) for pattern in DEFAULT_EXCLUDED)


def findings(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields what the quantization block says that the tensors do not bear out."""
    block = checkpoint.quantization
    try:
        block.recipe("transformer.layers.0.attention.qkv")
    except UnknownRecipeError:
        known = block.algorithm in QUANT_ALGOS
        yield _finding(
            "quant_algo",
            f"quant_algo {block.algorithm} is not known to {'this audit' if known else _RELEASES}",
            block.algorithm,
            None,
            "T8",
            doubt=known,
        )
        return
    modules = list(_modules(checkpoint, geometry))
    yield from _formats(modules, block.algorithm)
    yield from _groups(modules, block.group_size)
    other = _other_algorithm(modules)
    if other is None:
        yield from _prequant(checkpoint, modules)
    else:
        yield _finding(
            "quant_algo",
            f"quant_algo: {block.algorithm}, and every quantized linear consists of what {other} "
            "stores",
            block.algorithm,
            other,
            "T8",
        )
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
    named = [(place.layer, place.name, place.norm is not None) for place in places]
    for layer, name, normed in [*named, (None, "lm_head", True)]:
        _, local = checkpoint.stage(layer, f"{name}.")
        file = checkpoint.shards(layer, name)[0]
        if f"{local}weight" not in file:
            continue
        try:
            stored = read_linear(file, local.removesuffix("."))
        except MisshapenLinearError:
            continue
        yield _Module(name, checkpoint.quantization.recipe(name), stored, normed)


def _formats(modules: list[_Module], algorithm: str | None) -> Iterator[Finding]:
    """Yields where block and tensors disagree on the format, and names the side to blame.

    The block, if most linears contradict it. Else whatever leaves the ordinary: TensorRT-LLM leaves
    out of quantization what DEFAULT_EXCLUDED names, and quantizes the rest.
    """
    ordinary = [m for m in modules if not m.usually_plain]
    block = 2 * sum(not m.fits for m in ordinary) > len(ordinary)
    groups: dict[tuple[str, bool], list[_Module]] = {}
    for module in modules:
        if not module.fits:
            plain = module.recipe.format is WeightFormat.PLAIN
            if block:
                field = "exclude_modules" if plain and algorithm is not None else "quant_algo"
            else:
                field = "exclude_modules" if plain is not module.usually_plain else "formats"
            groups.setdefault((field, plain), []).append(module)
    for (field, plain), group in groups.items():
        promise = (
            "excluded from quantization, and quantized"
            if plain
            else "to be quantized, and stored as another format"
        )
        yield _finding(
            field,
            f"{_names(group)}: {promise}",
            group[0].stored.format.value,
            group[0].recipe.format.value,
            "T8",
            where=f"{group[0].name}.weight" if field == "formats" else None,
        )


def _other_algorithm(modules: list[_Module]) -> str | None:
    """Returns the algorithm that all linears were stored by, if the block names another one.

    A tensor that some linears lack, or whose lack no algorithm explains, was lost: the weight
    audit names it.
    """
    quantized = [m for m in modules if m.fits and m.recipe.format is not WeightFormat.PLAIN]
    stored = {
        (m.stored.format, _has_scale(m.stored), m.stored.prequant is not None) for m in quantized
    }
    promised = {m.recipe.activation in CALIBRATED for m in quantized}
    scaled = {scale for _, scale, _ in stored}
    if len(scaled) != 1 or len(promised) != 1 or scaled == promised:
        return None
    others = {
        algorithm_that_stores(kind, activation_scale=scale, prequant=prequant)
        for kind, scale, prequant in stored
    }
    return others.pop() if len(others) == 1 else None


def _has_scale(stored: StoredLinear) -> bool:
    return stored.activation is not None and stored.activation.scale is not None


def _groups(modules: list[_Module], stated: int | None) -> Iterator[Finding]:
    nvfp4 = [m for m in modules if m.fits and m.recipe.format is WeightFormat.NVFP4]
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
        if m.fits
        and m.recipe.format is WeightFormat.INT4_GROUP
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
    quantized = [m for m in modules if m.recipe.format is not WeightFormat.PLAIN and m.fits]
    have = [m for m in quantized if m.stored.prequant is not None]
    folded = checkpoint.folds_norms  # whether they were is for the weight audit to say
    lack = [m for m in quantized if m.stored.prequant is None and not (folded and m.normed)]
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
            where=f"{lack[0].name}.prequant_scaling_factor",
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
        known = algorithm in _UNJUDGED_CACHES
        yield _finding(
            "kv_cache_quant_algo",
            f"kv_cache_quant_algo {algorithm} is not known to "
            f"{'this audit' if known else _RELEASES}",
            algorithm,
            "FP8, INT8 or null",
            "T11",
            doubt=known,
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
        absent = min(set(range(geometry.layers)) - set(present))
        lost = f"transformer.layers.{absent}.attention.kv_cache_scaling_factor"
        yield _finding(
            "kv_cache_quant_algo",
            f"kv_cache_quant_algo: {algorithm}, and {geometry.layers - len(present)} of "
            f"{geometry.layers} layers have no cache scale; TensorRT-LLM would assume 1",
            len(present),
            geometry.layers,
            "T10",
            where=lost if present else None,
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
    where: str | None = None,
) -> Finding:
    """Blames a field of the block, or the tensor at `where`."""
    return Finding(
        check=f"config.quantization.{field}",
        result="inconclusive" if doubt else "fail",
        where=where or f"quantization.{field}",
        message=message,
        actual=actual,
        expected=expected,
        taxonomy=taxonomy,
    )
