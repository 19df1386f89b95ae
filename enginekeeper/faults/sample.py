"""A stratified part of a grid over several recipes, fixed by a seed before anything is measured.

Strata are class and recipe; faults below the stated limit are a class of their own, controls are
apart, by kind. Within a stratum the order is that of a digest of seed, recipe and case; strata take
turns. What a recipe cannot express is passed over when its turn comes.
Any beginning of the list is a stratified sample too: what was run of it is said by its length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from enginekeeper.faults.grid import Case, Grid

BELOW = "below"


@dataclass(frozen=True)
class Drawn:
    """One case on one recipe."""

    recipe: str
    case: Case

    @property
    def stratum(self) -> tuple[str, str]:
        """The class, or that the dose is below the limit, and the recipe."""
        fault = self.case.fault
        return (BELOW if self.case.below_limit else fault.taxonomy or fault.name), self.recipe

    def place(self, seed: str) -> str:
        """Returns where it stands in its stratum."""
        text = f"{seed}\n{self.recipe}\n{self.case.name}"
        return hashlib.sha256(text.encode()).hexdigest()


def drawn(grid: Grid, recipes: Sequence[str], seed: str) -> tuple[list[Drawn], list[Drawn]]:
    """Returns all faults and all controls, each in the order they are to be run."""
    every = [Drawn(recipe, case) for recipe in recipes for case in grid.cases]
    faults = [one for one in every if not one.case.fault.healthy]
    controls = [one for one in every if one.case.fault.healthy]
    return _in_turns(faults, seed), _in_turns(controls, seed)


def _in_turns(members: Iterable[Drawn], seed: str) -> list[Drawn]:
    strata: dict[tuple[str, str], list[Drawn]] = {}
    for one in sorted(members, key=lambda one: one.place(seed)):
        strata.setdefault(one.stratum, []).append(one)
    order = sorted(strata, key=lambda key: hashlib.sha256(f"{seed}\n{key}".encode()).digest())
    rows = [strata[key] for key in order]
    longest = max(map(len, rows), default=0)
    return [row[turn] for turn in range(longest) for row in rows if turn < len(row)]
