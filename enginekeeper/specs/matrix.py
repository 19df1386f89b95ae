"""Expands a spec into its variants: the product of its lists, less exclusions, plus inclusions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import TYPE_CHECKING

from enginekeeper.errors import InputError
from enginekeeper.specs.acceptance import acceptance_of
from enginekeeper.specs.model import IncludeRule, Parallel
from enginekeeper.specs.problems import path_text
from enginekeeper.specs.variants import Variant, VariantId

if TYPE_CHECKING:
    from enginekeeper.specs.model import BuildSpec, ExcludeRule

MAX_VARIANTS = 1000
"""A spec with more is a mistake sooner than a fleet; split it by model or by GPU class."""


class MatrixError(InputError):
    """A spec's lists and rules do not make a set of variants; `field` is the path to blame."""

    def __init__(
        self,
        what: str,
        field: tuple[str | int, ...],
        *,
        actual: str | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.field = field
        super().__init__(
            what, where=path_text(field), actual=actual, expected=expected, remedy=remedy
        )


def expand(spec: BuildSpec) -> tuple[Variant, ...]:
    """Returns a spec's variants in a fixed order: as listed, targets first, inclusions last.

    Raises MatrixError for identifiers that occur twice, rules that fit nothing, empty results.
    """
    cells = len(spec.targets) * len(spec.recipes) * len(spec.parallel)
    if cells > MAX_VARIANTS:
        raise MatrixError(
            "the matrix is too large",
            ("recipes",),
            actual=f"{cells} variants",
            expected=f"at most {MAX_VARIANTS}",
        )
    product_cells = [
        _variant(spec, IncludeRule(recipe=recipe, target=target, parallel=parallel))
        for target, recipe, parallel in product(spec.targets, spec.recipes, spec.parallel)
    ]
    _refuse_idle_rules(spec, product_cells)
    kept = [cell for cell in product_cells if not any(_fits(r, cell) for r in spec.matrix.exclude)]
    _refuse_duplicates(kept, lambda _: _repeated(spec))
    if not kept and not spec.matrix.include:
        raise MatrixError("every variant is excluded", ("matrix", "exclude"))
    variants = (*kept, *(_variant(spec, rule) for rule in spec.matrix.include))
    _refuse_duplicates(variants, lambda index: ("matrix", "include", index - len(kept)))
    return variants


def _variant(spec: BuildSpec, cell: IncludeRule) -> Variant:
    recipe = cell.recipe
    acceptance, origins = acceptance_of(
        recipe.recipe, recipe.kv_cache, spec.acceptance, recipe.acceptance
    )
    return Variant(
        model=spec.model,
        target=cell.target,
        recipe=cell.recipe,
        parallel=cell.parallel,
        calibration=spec.calibration,
        limits=spec.limits,
        toolchain=spec.toolchain,
        fallback=spec.fallback,
        build=spec.build,
        acceptance=acceptance,
        limits_from=origins,
        suite=spec.suite,
        reference=spec.reference,
        backend=spec.backend,
        llm_api=spec.llm_api,
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


def _refuse_idle_rules(spec: BuildSpec, cells: list[Variant]) -> None:
    for index, rule in enumerate(spec.matrix.exclude):
        if not any(_fits(rule, cell) for cell in cells):
            raise MatrixError(
                "the rule fits no variant, so it does not do what it says",
                ("matrix", "exclude", index),
                expected="a rule that leaves out at least one variant",
                remedy="correct or remove it",
            )


def _repeated(spec: BuildSpec) -> tuple[str | int, ...]:
    """Returns the path of the first list entry that has the name of one before it."""
    parts: dict[str, list[str]] = {
        "targets": [target.part for target in spec.targets],
        "recipes": [f"{recipe.part}, repair {recipe.repair}" for recipe in spec.recipes],
        "parallel": [parallel.part for parallel in spec.parallel],
    }
    for name, entries in parts.items():
        for index, entry in enumerate(entries):
            if entry in entries[:index]:
                return (name, index)
    return ("recipes",)


def _refuse_duplicates(
    variants: Sequence[Variant], place_of: Callable[[int], tuple[str | int, ...]]
) -> None:
    """Raises MatrixError at the place of the first variant that is called like one before it."""
    seen: set[VariantId] = set()
    for index, variant in enumerate(variants):
        if variant.identifier in seen:
            raise MatrixError(
                f"two variants are called {variant.identifier}",
                place_of(index),
                expected="a different identifier for each variant",
                remedy="remove one, or give its recipe or target a label",
            )
        seen.add(variant.identifier)
