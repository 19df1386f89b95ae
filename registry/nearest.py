"""For a key that no engine has: the engines that come nearest, and what stands between.

Nearest is who differs in the fewest hard fields, then in the fewest soft ones, then who is newest.
Engines of other weights are looked at only where there is none of these weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.keys import EngineKey, FieldDifference, Layer, compare
from registry.queries import View
from registry.types import Engine, EngineFilter


@dataclass(frozen=True)
class Neighbour:
    """An engine near to a wanted key, and every field in which it differs."""

    engine: Engine
    differences: tuple[FieldDifference, ...]
    """From the wanted key (`a`) to the engine's (`b`): hard, soft, info."""

    def count(self, layer: Layer) -> int:
        """Returns in how many fields of a layer it differs."""
        return sum(one.layer is layer for one in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """Returns the neighbour as a JSON object."""
        return {
            "engine": str(self.engine.digest),
            "variant": self.engine.variant,
            "simulated": self.engine.simulated,
            **{str(layer): self.count(layer) for layer in Layer},
            "differences": [one.as_dict() for one in self.differences],
        }


def nearest(view: View, wanted: EngineKey, *, limit: int = 3) -> list[Neighbour]:
    """Returns the engines nearest to a key, each key once by its newest engine."""
    keys = sorted(view.keys_near(wanted), key=lambda one: _hard(wanted, one))[:limit]
    found = [_neighbour(wanted, view.engines(EngineFilter(key=key.digest()))[0]) for key in keys]
    return sorted(found, key=lambda one: (one.count(Layer.HARD), one.count(Layer.SOFT)))


def _hard(wanted: EngineKey, other: EngineKey) -> int:
    return sum(one.layer is Layer.HARD for one in compare(wanted, other))


def _neighbour(wanted: EngineKey, engine: Engine) -> Neighbour:
    differences: Sequence[FieldDifference] = compare(wanted, engine.key)
    return Neighbour(engine, tuple(differences))
