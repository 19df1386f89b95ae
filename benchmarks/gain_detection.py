"""Holds the engines that behaviour.py scored against fault dictionaries.

    python benchmarks/gain_detection.py PLACE DIRECTORY [--only RECIPE]... [--flips N]

PLACE is a `faults/behaviour-…` of the cache, which is only read; DIRECTORY keeps the dictionaries,
one of each recipe, made where it is not there (120 passes over 864 positions, minutes). Prints, for
every healthy execution, control and fault: what `fidelity.kl` and `fidelity.gain` say, and whose
gain explains most. Engines that stopped before eight prompts are decided and not asked. With
`--flips` instead the chance of an alarm: every healthy execution and control N times, the sign of
each prompt's difference drawn at random, which leaves its size and shape and no direction.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from behaviour import SEED, WAYS, Lab, Recipe
from safetensors.numpy import load_file

from enginekeeper.faults.behaviour import told
from enginekeeper.faults.grid import bundled_grid, load_grid
from enginekeeper.faults.sample import drawn
from enginekeeper.validation.checks import Check, Limit
from enginekeeper.validation.dictionary import Dictionary, Problem, load_dictionary, problem_of
from enginekeeper.validation.fidelity import FAILING_CHECKS
from enginekeeper.validation.gains import critical, gain_check
from enginekeeper.validation.rounds import order_of
from enginekeeper.validation.scores import Scores, load_scores


def engines(recipe: Recipe) -> Iterator[tuple[str, str, Scores, tuple[int, ...]]]:
    """Yields kind, name, scores and prompts of everything that was scored of a recipe."""
    order = order_of(recipe.arms.rounds)
    names = ["healthy", *(f"way-{way.replace(' ', '-')}" for way in WAYS)]
    for name in names:
        path = recipe.place / f"{name}.safetensors"
        if path.is_file():
            yield "healthy", name, *_scores(recipe, path, order)
    if recipe.arms.nudged is not None:
        yield "healthy", "twin with a last bit of noise", recipe.arms.nudged.only(order), order
    kinds = drawn(load_grid(bundled_grid()), [recipe.name], SEED)
    for kind, cases in zip(("fault", "control"), kinds, strict=True):
        for one in cases:
            known = recipe.case_file(one.case.name, ".json")
            if known.is_file() and json.loads(known.read_text())["outcome"] == "scored":
                path = recipe.case_file(one.case.name, ".safetensors")
                name = "below" if one.case.below_limit else kind
                yield name, one.case.name, *_scores(recipe, path, order)


def _scores(recipe: Recipe, path: Path, order: tuple[int, ...]) -> tuple[Scores, tuple[int, ...]]:
    scored = order[: len(load_file(path)["offsets"]) - 1]
    return load_scores(path, recipe.arms.tokens.only(scored)), scored


def held(recipe: Recipe, dictionary: Dictionary, engine: Scores, order: tuple[int, ...]) -> Check:
    """Asks `fidelity.gain` as a verdict does."""
    evidence = replace(recipe.arms.evidence(engine, order), dictionary=dictionary)
    confidence = recipe.arms.policy.confidence
    return gain_check(evidence, Limit(0.0, "at most", confidence, FAILING_CHECKS + 1))


@dataclass(frozen=True)
class Flips:
    """What the gain that explains most came to when signs were drawn."""

    certain: float
    """Share of the draws in which it was beyond `critical`."""
    explained: float
    """The largest share of the distance that it explained in any draw."""


def flips(problem: Problem, draws: int, confidence: float) -> Flips:
    """Draws the sign of every prompt's difference."""
    labels = np.unique(problem.prompts)
    here = [problem.prompts == label for label in labels]
    pulls = np.stack([problem.directions[:, at] @ problem.difference[at] for at in here], axis=1)
    sizes = np.stack([(problem.directions[:, at] ** 2).sum(axis=1) for at in here], axis=1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (len(labels), draws))
    size = sizes.sum(axis=1)[:, None]
    gains = pulls @ signs / size
    explained = gains**2 * size / float(problem.difference @ problem.difference)
    spread = (pulls**2).sum(axis=1)[:, None] - 2.0 * gains * ((pulls * sizes) @ signs)
    spread += gains**2 * (sizes**2).sum(axis=1)[:, None]
    errors = np.sqrt(spread * len(labels) / (len(labels) - 1)) / size
    best = explained.argmax(axis=0), np.arange(draws)
    certain = np.abs(gains[best]) / errors[best] > critical(len(labels), len(size), confidence)
    return Flips(float(certain.mean()), float(explained.max()))


def show_flips(recipe: Recipe, dictionary: Dictionary, draws: int) -> None:
    """Prints a row for every engine that is healthy."""
    level = 1.0 - (1.0 - recipe.arms.policy.confidence) / (FAILING_CHECKS + 1)
    for kind, name, engine, order in engines(recipe):
        problem = problem_of(dictionary, recipe.arms.twin, engine, order)
        if kind in ("healthy", "control") and problem is not None:
            found = flips(problem, draws, level)
            print(f"| {recipe.name} | {name} | {found.certain:.4f} | {found.explained:.4f} |")


def main() -> int:
    """Prints the table and what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--flips", type=int, default=0)
    asked = parser.parse_args()
    asked.directory.mkdir(parents=True, exist_ok=True)
    lab, counts = Lab.open(), Counter[str]()
    if asked.flips:
        print("| recipe | what | certain | explained at most |\n|---|---|--:|--:|")
    else:
        print("| recipe | kind | what | nats | kl | gain | explained | said |")
        print("|---|---|---|--:|---|---|--:|---|")
    for number in range(len(lab.exports())):
        recipe = lab.recipe(number)
        recipe = replace(recipe, place=asked.place / recipe.place.name)
        if asked.only and recipe.place.name not in asked.only:
            continue
        path = asked.directory / f"{recipe.place.name}.safetensors"
        recipe.locate(path, asked.directory)
        dictionary = load_dictionary(path)
        if asked.flips:
            show_flips(recipe, dictionary, asked.flips)
            continue
        for kind, name, engine, order in engines(recipe):
            check = held(recipe, dictionary, engine, order)
            kl = told(recipe.arms, engine, order=order)
            counts[f"{kind}: kl {kl.decision}, gain {check.outcome}"] += 1
            size = "" if kl.kl is None else f"{kl.kl:.1e}"
            share = "" if check.value is None else f"{check.value:.3f}"
            print(f"| {recipe.name} | {kind} | {name} | {size} | {kl.decision} | {check.outcome} "
                  f"| {share} | {check.note} |", flush=True)  # fmt: skip
    for what, count in sorted(counts.items()):
        print(f"{what}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
