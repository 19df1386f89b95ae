"""The fault dictionary: which tensor's gain explains how an engine differs from its twin.

A fault of a tensor's gain moves the log-probabilities along a direction of its own, which is known
beforehand: the sensitivity of the twin, one forward pass per tensor (the step `sensitivities`).
The difference between engine and twin is regressed on them, one after the other (orthogonal
matching pursuit), weighted with the square root of the twin's probability, so that squares are
divergence to second order. What is explained far beyond chance names the tensor and the size.

Rules:

- prompts are the unit, as everywhere: the certainty of a gain is the spread of the prompts'
  contributions to it, not of tokens;
- directions that are alike cannot be told apart and are reported as one set: value and output
  projection, query and key, up and down projection of one layer;
- where nothing explains enough, nothing is named: a fault that is no gain stays unexplained.

Example:
    found = explain(dictionary, twin, engine)
    found[0].names, found[0].gain     # (('model.layers.15.mlp.down_proj', …), 0.0109)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginekeeper.errors import InputError
from enginekeeper.validation.array_files import ArrayFile
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.checks import rounded
from enginekeeper.validation.numerics.recipes import WeightFormat, recipe_for
from enginekeeper.validation.scores import Scores

Doubles = NDArray[np.float64]

SCHEMA = "2"
"""2 added how many positions of each prompt there are."""

ALIKE = 0.97
"""Cosine of two directions from which on they are one set."""

LEAST_EXPLAINED = 0.08
"""Share of the squared difference that a named gain must explain: docs/adr, 98."""

LEAST_CERTAIN = 5.0
"""A gain over its standard error between prompts."""

ZERO_POINT = ".zero_point"
"""In the names of atoms that move codes instead of multiplying them."""

MOST = 3
"""How many gains are looked for."""

FEWEST_PROMPTS = 3
"""Below this the spread between prompts says nothing."""


@dataclass(frozen=True)
class Culprit:
    """A gain that explains part of the difference, and everything that would explain it as well."""

    names: tuple[str, ...]
    gain: float
    """Relative: 0.03 is 3 % too loud; of a zero point in codes, of eps in doublings."""
    certainty: float
    """The gain over its standard error between prompts."""
    explained: float
    """The share of the squared difference that goes away with it."""

    @property
    def size(self) -> str:
        """The gain in words."""
        codes = ZERO_POINT in self.names[0]
        return f"{self.gain:+.2f} codes" if codes else f"{self.gain:+.2%}"

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {
            "names": list(self.names),
            "gain": rounded(self.gain),
            "certainty": rounded(self.certainty),
            "explained": rounded(self.explained),
        }


@dataclass(frozen=True)
class Dictionary:
    """Sensitivities of one twin over some prompts of its suite."""

    names: tuple[str, ...]
    prompts: tuple[int, ...]
    lengths: tuple[int, ...]
    """How many positions of each prompt there are, from its beginning."""
    atoms: NDArray[np.float32]
    """[atoms, positions of those prompts, best tokens]."""

    @cached_property
    def composites(self) -> dict[str, tuple[int, ...]]:
        """Gains of one kind of tensor in every layer, by what they are called."""
        kinds: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            words = name.split(".")
            if words[:2] == ["model", "layers"]:
                kinds.setdefault(".".join(words[3:]), []).append(number)
        return {f"{kind} of every layer": tuple(one) for kind, one in kinds.items() if len(one) > 1}


def codes_of(checkpoint: Path) -> dict[str, int] | None:
    """Returns how weights are coded where a zero point can be wrong: in groups of INT4.

    Its codes are stored with an offset by some and without by others; INT8 has no such choice.
    """
    said = Checkpoint.open(checkpoint).quantization
    if said.algorithm is None or said.layers:
        return None
    recipe = recipe_for(said.algorithm, said.group_size)
    if recipe.format is not WeightFormat.INT4_GROUP or recipe.group_size is None:
        return None
    return {"bits": 4, "group": recipe.group_size}


def load_dictionary(path: Path) -> Dictionary:
    """Reads what the step `sensitivities` wrote."""
    file = ArrayFile.open(path, holds="sensitivities", schema=SCHEMA)
    atoms, names = file.array("sensitivities"), file.listed("atoms", str)
    prompts, lengths = file.listed("prompts", int), file.listed("positions", int)
    if atoms.shape[:-1] != (len(names), sum(lengths)):
        raise InputError(
            "names, positions and sensitivities do not match",
            where=str(path),
            actual=list(atoms.shape),
            expected=f"[{len(names)}, {sum(lengths)}, best tokens]",
        )
    if len(prompts) != len(lengths):
        raise InputError("prompts and positions do not match", where=str(path), actual=lengths)
    return Dictionary(names, prompts, lengths, atoms)


@dataclass(frozen=True)
class Problem:
    """The weighted difference and directions as flat vectors, with the prompt of every entry."""

    difference: Doubles
    directions: Doubles
    """[atoms, entries]."""
    names: tuple[str, ...]
    prompts: NDArray[np.int64]


def explain(
    dictionary: Dictionary, twin: Scores, engine: Scores, order: tuple[int, ...] | None = None
) -> tuple[Culprit, ...]:
    """Names the gains that explain how an engine differs from its twin; none where none does.

    The twin's scores are of the whole suite, the engine's of the prompts in `order` (None: all).
    """
    problem = problem_of(dictionary, twin, engine, order)
    if problem is None:
        return ()
    chosen: list[int] = []
    found: list[Culprit] = []
    while len(chosen) < MOST:
        best = _next(problem, chosen)
        if best is None or best[1].explained < LEAST_EXPLAINED or best[1].certainty < LEAST_CERTAIN:
            break
        chosen.append(best[0])
        found.append(best[1])
    return tuple(found)


@dataclass(frozen=True)
class Strongest:
    """The gain that explains most, whether it explains enough or not, and what it was sought in."""

    culprit: Culprit
    prompts: int
    positions: int
    directions: int


def strongest(
    dictionary: Dictionary, twin: Scores, engine: Scores, order: tuple[int, ...] | None = None
) -> Strongest | None:
    """Returns the gain that explains most; None where too few prompts were scored, or all agree."""
    problem = problem_of(dictionary, twin, engine, order)
    best = None if problem is None else _next(problem, [])
    if problem is None or best is None:
        return None
    prompts = len(np.unique(problem.prompts))
    positions = len(problem.difference) // dictionary.atoms.shape[2]
    return Strongest(best[1], prompts, positions, len(problem.names))


def problem_of(
    dictionary: Dictionary, twin: Scores, engine: Scores, order: tuple[int, ...] | None
) -> Problem | None:
    """Lays out what is regressed on what; None where nothing was scored that both are over."""
    where = {number: place for place, number in enumerate(order or range(engine.prompts))}
    spans, theirs = tuple(twin.spans()), tuple(engine.spans())
    rows, ours, labels, start = [], [], [], 0
    kept_atoms: list[NDArray[np.int64]] = []
    for label, (number, length) in enumerate(
        zip(dictionary.prompts, dictionary.lengths, strict=True)
    ):
        if number in where:
            first, mine = spans[number].start, theirs[where[number]].start
            rows.append(np.arange(first, first + length))
            ours.append(np.arange(mine, mine + length))
            kept_atoms.append(np.arange(start, start + length))
            labels.append(np.full(length, label))
        start += length
    if len(rows) < FEWEST_PROMPTS or "twin" not in engine.at:
        return None
    row, mine_row, atom_row = (np.concatenate(one) for one in (rows, ours, kept_atoms))
    sound = twin.finite[row] & engine.finite[mine_row]
    if not sound.any():
        return None
    row, mine_row, atom_row = row[sound], mine_row[sound], atom_row[sound]
    weight = np.exp(twin.top_logprobs[row].astype(np.float64) / 2.0)
    gap = (engine.at["twin"][mine_row].astype(np.float64) - twin.top_logprobs[row]) * weight
    calm = _calm(gap)
    directions = dictionary.atoms[:, atom_row].astype(np.float64) * (weight * calm)
    flat = directions.reshape(len(directions), -1)
    sums = [flat[list(members)].sum(axis=0) for members in dictionary.composites.values()]
    names = (*dictionary.names, *dictionary.composites)
    everything = np.concatenate([flat, np.stack(sums)]) if sums else flat
    prompts = np.repeat(np.concatenate(labels)[sound], gap.shape[1])
    return Problem((gap * calm).ravel(), everything, names, prompts)


def _calm(gap: Doubles) -> Doubles:
    """Weighs positions down that are far off, so that a few of them do not speak for all.

    As a Cauchy likelihood does, with the median position for its width.
    """
    energy = (gap**2).sum(axis=1, keepdims=True)
    width = float(np.median(energy)) or float(energy.mean())
    if width == 0.0:
        return np.ones_like(energy)
    weights: Doubles = 1.0 / np.sqrt(1.0 + energy / width)
    return weights


def _next(problem: Problem, chosen: list[int]) -> tuple[int, Culprit] | None:
    """Returns the direction that explains most of what the chosen ones leave; None: nothing is."""
    total = float(problem.difference @ problem.difference)
    residual = _fit(problem, chosen)[1] if chosen else problem.difference
    if total == 0.0 or len(chosen) == len(problem.names):
        return None
    at = _best(problem, residual, chosen)
    gains, after = _fit(problem, [*chosen, at])
    explained = (float(residual @ residual) - float(after @ after)) / total
    certainty = _certainty(problem, at, gains[-1], after)
    return at, Culprit(_alike(problem, at), float(gains[-1]), certainty, explained)


def _best(problem: Problem, residual: Doubles, chosen: list[int]) -> int:
    """Returns the direction that explains most of the residual."""
    lengths = np.einsum("ij,ij->i", problem.directions, problem.directions)
    shares = (problem.directions @ residual) ** 2 / np.maximum(lengths, np.finfo(np.float64).tiny)
    shares[chosen] = -1.0
    return int(shares.argmax())


def _fit(problem: Problem, chosen: list[int]) -> tuple[Doubles, Doubles]:
    """Returns the gains of some directions together, and what they leave."""
    basis = problem.directions[chosen].T
    gains: Doubles = np.linalg.lstsq(basis, problem.difference, rcond=None)[0].astype(np.float64)
    left: Doubles = problem.difference - basis @ gains
    return gains, left


def _certainty(problem: Problem, at: int, gain: float, left: Doubles) -> float:
    """Returns a gain over its standard error, from the prompts' contributions to it."""
    direction = problem.directions[at]
    pulls = np.bincount(problem.prompts, weights=direction * left)
    seen = len(np.unique(problem.prompts))
    spread = float(np.sqrt((pulls**2).sum() * seen / (seen - 1)))
    error = spread / max(float(direction @ direction), np.finfo(np.float64).tiny)
    return abs(float(gain)) / max(error, np.finfo(np.float64).tiny)


def _alike(problem: Problem, at: int) -> tuple[str, ...]:
    """Returns the names of all directions that cannot be told from this one, it first."""
    lengths = np.linalg.norm(problem.directions, axis=1)
    cosines = problem.directions @ problem.directions[at]
    cosines = cosines / np.maximum(lengths * lengths[at], np.finfo(np.float64).tiny)
    others = np.flatnonzero(np.abs(cosines) >= ALIKE)
    return (problem.names[at], *(problem.names[one] for one in others if one != at))


def in_words(culprits: Iterable[Culprit]) -> str:
    """Says which tensors are how much off."""
    return "; ".join(
        f"{' or '.join(one.names)}: gain {one.size}, which explains {one.explained:.0%}"
        for one in culprits
    )
