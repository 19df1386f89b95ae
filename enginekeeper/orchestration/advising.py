"""Which engines of the registry were built by releases with known vulnerabilities."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from enginekeeper.compatibility.advisories import Advisory, Concern, advisory_table, concerns
from registry.service import Registry
from registry.types import Engine, EngineFilter


@dataclass(frozen=True)
class Advised:
    """One advisory and the engines it is about."""

    advisory: Advisory
    engines: tuple[tuple[Engine, Concern], ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        one = self.advisory
        return {
            "advisory": one.id,
            "product": one.product,
            "fixed_in": one.fixed_in,
            "score": one.score,
            "what": one.what,
            "source": advisory_table().sources[one.source],
            "engines": [
                {
                    "engine": str(engine.digest),
                    "variant": engine.variant,
                    "version": concern.version,
                    "standing": str(concern.standing),
                    "simulated": engine.simulated,
                }
                for engine, concern in self.engines
            ],
        }


def advised(registry: Registry, wanted: EngineFilter | None = None) -> tuple[Advised, ...]:
    """Returns every advisory with its engines, in the table's order; reads every key once."""
    found: dict[str, list[tuple[Engine, Concern]]] = defaultdict(list)
    for engine in registry.engines(wanted or EngineFilter()):
        for concern in concerns(engine.key):
            found[concern.advisory.id].append((engine, concern))
    return tuple(Advised(one, tuple(found.get(one.id, ()))) for one in advisory_table().advisories)
