"""The recipe audit: what was asked for, against what the `quantization` block says.

The config audit holds the block against the tensors. A checkpoint of another recipe than the one
asked for is right by that, and wrong all the same.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator
from typing import get_args

from enginekeeper.errors import InputError
from enginekeeper.specs.recipes import (
    GROUPED,
    KV_QUANT_ALGOS,
    QUANT_ALGOS,
    SMOOTHED,
    GroupSize,
    Recipe,
)
from enginekeeper.validation.checkpoint import Checkpoint, Quantization
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.numerics.mapping import Geometry, LinearPlace, layer_linears

NAME = "recipe"

_HEAD = "lm_head"
"""Quantized by no recipe."""

_LISTED = 4


def audit_recipe(checkpoint: Checkpoint, geometry: Geometry, recipe: Recipe) -> AuditReport:
    """Compares every field of the block that the recipe decides."""
    block = checkpoint.quantization
    findings = [*_formats(block, recipe)]
    if block.algorithm is not None and block.algorithm == QUANT_ALGOS[recipe.recipe]:
        findings += [*_details(block, recipe), *_exclusions(block, geometry, recipe)]
    return AuditReport(NAME, tuple(findings), {"asked": recipe.part})


def recipe_of(checkpoint: Checkpoint, geometry: Geometry) -> Recipe:
    """Returns the recipe a checkpoint says it was made by; raises InputError that names a field."""
    block = checkpoint.quantization
    names = [name for name, algorithm in QUANT_ALGOS.items() if algorithm == block.algorithm]
    if not names:
        raise _unknown(checkpoint, "quant_algo", block.algorithm, QUANT_ALGOS.values())
    name = next((name for name in names if (name in SMOOTHED) == block.prequant), names[0])
    caches = {algorithm: cache for cache, algorithm in KV_QUANT_ALGOS.items()}
    if block.kv_cache not in caches:
        raise _unknown(checkpoint, "kv_cache_quant_algo", block.kv_cache, caches)
    groups = {None: None, **{size: size for size in get_args(GroupSize)}}
    group = block.group_size if name in GROUPED else None
    if group not in groups:
        raise _unknown(checkpoint, "group_size", group, get_args(GroupSize))
    return Recipe(
        recipe=name,
        kv_cache=caches[block.kv_cache],
        group_size=groups[group],
        exclude_modules=_source_modules(block, geometry),
        repair="off",
    )


def _formats(block: Quantization, recipe: Recipe) -> Iterator[Finding]:
    """Judges what the block says whatever the recipe."""
    yield from _judge("quant_algo", block.algorithm, QUANT_ALGOS[recipe.recipe], recipe, "T8")
    expected = KV_QUANT_ALGOS[recipe.kv_cache]
    yield from _judge("kv_cache_quant_algo", block.kv_cache, expected, recipe, "T11")


def _details(block: Quantization, recipe: Recipe) -> Iterator[Finding]:
    """Judges what only the blocks of some algorithms say."""
    if recipe.group is not None:
        # A block that is silent means the default of its algorithm.
        group = block.group_size or Recipe(recipe=recipe.recipe).group
        yield from _judge("group_size", group, recipe.group, recipe, "T3")
    if recipe.recipe in GROUPED:
        smoothed = recipe.recipe in SMOOTHED
        yield from _judge("pre_quant_scale", block.prequant, smoothed, recipe, "T9")


def _exclusions(block: Quantization, geometry: Geometry, recipe: Recipe) -> Iterator[Finding]:
    """Judges linear by linear: the block's patterns are the exporter's, not the recipe's."""
    places = _places(geometry)
    actual = {name for name in (_HEAD, *places) if block.excludes(name)}
    expected = {_HEAD, *(name for name, place in places.items() if _excluded(place, recipe))}
    left, taken = sorted(actual - expected), sorted(expected - actual)
    if not left and not taken:
        return
    says = [f"leaves {_listed(left)} unquantized"] if left else []
    says += [f"quantizes {_listed(taken)}"] if taken else []
    asked = ", ".join(recipe.exclude_modules) or "no exclusions"
    yield _finding(
        "exclude_modules",
        f"exclude_modules {' and '.join(says)}; the recipe asked for, {recipe.part}, has {asked}",
        list(block.excluded),
        sorted(expected),
        "T8",
    )


def _places(geometry: Geometry) -> dict[str, LinearPlace]:
    places = (layer_linears(layer, geometry) for layer in range(geometry.layers))
    return {place.name: place for linears in places for place in linears}


def _excluded(place: LinearPlace, recipe: Recipe) -> bool:
    """Whether a recipe leaves a linear alone; the quantizer takes or leaves all parts of one."""
    return all(
        any(fnmatch.fnmatchcase(part.module, pattern) for pattern in recipe.exclude_modules)
        for part in place.parts
    )


def _source_modules(block: Quantization, geometry: Geometry) -> tuple[str, ...]:
    """Returns the linears of the source that a block leaves alone; lm_head goes without saying."""
    if block.algorithm is None:
        return ()
    places = _places(geometry).values()
    excluded = [place for place in places if block.excludes(place.name)]
    return tuple(part.module for place in excluded for part in place.parts)


def _judge(
    field: str, actual: object, expected: object, recipe: Recipe, taxonomy: str
) -> Iterator[Finding]:
    if actual != expected:
        says, wanted = _text(actual), _text(expected)
        message = f"{field}: {says}; the recipe asked for, {recipe.part}, has {wanted}"
        yield _finding(field, message, says, wanted, taxonomy)


def _finding(field: str, message: str, actual: object, expected: object, taxonomy: str) -> Finding:
    return Finding(
        check=f"recipe.{field}",
        result="fail",
        where=f"quantization.{field}",
        message=message,
        actual=actual,
        expected=expected,
        taxonomy=taxonomy,
    )


def _unknown(
    checkpoint: Checkpoint, field: str, actual: object, known: Iterable[object]
) -> InputError:
    return InputError(
        f"quantization.{field} is not one of a recipe",
        where=str(checkpoint.directory / "config.json"),
        actual=_text(actual),
        expected=", ".join(dict.fromkeys(map(_text, known))),
    )


def _text(value: object) -> str:
    """Returns a JSON value as the file has it, text without its quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
