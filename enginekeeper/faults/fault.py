"""What a fault is: an edit with a dose, a class, and the name of the culprit it leaves behind."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from enginekeeper.faults.draft import Draft

Layers = Literal["first", "middle", "last", "all"]
LAYERS: tuple[Layers, ...] = get_args(Layers)

Linear = Literal["attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"]
LINEARS: tuple[Linear, ...] = get_args(Linear)

Scope = Literal["linear", "layer", "model"]
"""What of a target an edit looks at: layers and linear, layers only, or neither."""


@dataclass(frozen=True)
class Target:
    """Where an edit goes."""

    layers: Layers = "middle"
    linear: Linear = "mlp.proj"
    seed: int = 0
    """Of whatever is chosen at random; the same seed chooses the same."""

    def numbers(self, count: int) -> tuple[int, ...]:
        """Returns the layers meant, of `count`."""
        chosen = {"first": (0,), "middle": (count // 2,), "last": (count - 1,)}
        return tuple(range(count)) if self.layers == "all" else chosen[self.layers]

    def random(self, name: str) -> np.random.Generator:
        """Returns the generator for one tensor: its numbers depend on seed and name only."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


Edit = Callable[[Draft, Target, float], tuple[str, ...]]
"""Changes a draft and returns the culprits: a finding should name one, or something in it."""


@dataclass(frozen=True)
class Fault:
    """One way in which a checkpoint can be silently wrong, or a healthy variation of it."""

    name: str
    taxonomy: str | None
    """A key of `findings.TAXONOMY`; None for a healthy control."""
    what: str
    edit: Edit
    like: str = ""
    """Reports of the same mechanism."""
    dose: str | None = None
    """What the dose is; None where there is nothing to choose."""
    usual: float = 1.0
    """The dose when none is given."""
    scope: Scope = "linear"
    also: tuple[str, ...] = ()
    """Further classes that name the same damage as well."""
    in_files: bool = True
    """Whether the files show it; else only behaviour can."""

    @property
    def healthy(self) -> bool:
        """Whether it is a control that no check may stop."""
        return self.taxonomy is None

    @property
    def classes(self) -> frozenset[str]:
        """The classes that a finding about it may have."""
        return frozenset(self.also) | ({self.taxonomy} if self.taxonomy else set())
