"""Expands a spec into its variants: the product of its lists, less exclusions, plus inclusions."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product
from typing import TYPE_CHECKING

from enginekeeper.errors import InputError
from enginekeeper.specs.model import IncludeRule, Parallel
from enginekeeper.specs.variants import Variant, VariantId

if TYPE_CHECKING:
    from enginekeeper.specs.model import BuildSpec, ExcludeRule

MAX_VARIANTS = 1000
"""A spec with more is a mistake sooner than a fleet; split it by model or by GPU class."""


def expand(spec: BuildSpec, source: str = "the build spec") -> tuple[Variant, ...]:
    """Returns a spec's variants in a fixed order: as listed, targets first, inclusions last.

    Raises InputError for identifiers that occur twice, rules that fit nothing, and empty results.
    """
    cells = len(spec.targets) * len(spec.recipes) * len(spec.parallel)
    if cells > MAX_VARIANTS:
        raise InputError(
            "the matrix is too large",
            where=source,
            actual=f"{cells} variants",
            expected=f"at most {MAX_VARIANTS}",
        )
    product_cells = [
        _variant(spec, IncludeRule(recipe=recipe, target=target, parallel=parallel))
        for target, recipe, parallel in product(spec.targets, spec.recipes, spec.parallel)
    ]
    _refuse_idle_rules(spec, product_cells, source)
    kept = [cell for cell in product_cells if not any(_fits(r, cell) for r in spec.matrix.exclude)]
    variants = (*kept, *(_variant(spec, rule) for rule in spec.matrix.include))
    _refuse_duplicates(variants, source)
    if not variants:
        raise InputError("every variant is excluded", where=f"{source}: matrix.exclude")
    return variants


def _variant(spec: BuildSpec, cell: IncludeRule) -> Variant:
    own = cell.recipe.acceptance
    return Variant(
        model=spec.model,
        target=cell.target,
        recipe=cell.recipe,
        parallel=cell.parallel,
        calibration=spec.calibration,
        limits=spec.limits,
        toolchain=spec.toolchain,
        acceptance=spec.acceptance if own is None else own.applied_to(spec.acceptance),
        suite=spec.suite,
        reference=spec.reference,
    )


def _fits(rule: ExcludeRule, variant: Variant) -> bool:
    parallel: Parallel = variant.parallel
    return (
        (rule.recipe is None or fnmatchcase(variant.recipe.part, rule.recipe))
        and (rule.target is None or fnmatchcase(variant.target.part, rule.target))
        and (rule.kv_cache is None or variant.recipe.kv_cache == rule.kv_cache)
        and (rule.tensor is None or parallel.tensor == rule.tensor)
        and (rule.pipeline is None or parallel.pipeline == rule.pipeline)
    )


def _refuse_idle_rules(spec: BuildSpec, cells: list[Variant], source: str) -> None:
    for index, rule in enumerate(spec.matrix.exclude):
        if not any(_fits(rule, cell) for cell in cells):
            raise InputError(
                "the rule fits no variant, so it does not do what it says",
                where=f"{source}: matrix.exclude[{index}]",
                expected="a rule that leaves out at least one variant",
                remedy="correct or remove it",
            )


def _refuse_duplicates(variants: tuple[Variant, ...], source: str) -> None:
    seen: set[VariantId] = set()
    for variant in variants:
        if variant.identifier in seen:
            raise InputError(
                f"two variants are called {variant.identifier}",
                where=source,
                expected="a different identifier for each variant",
                remedy="remove one, or give its recipe or target a label",
            )
        seen.add(variant.identifier)
