"""Whether an engine can work in an environment at all; the function the registry's gate is given.

The rules are those of `decision`; the gate is told of the first that stands against it, with
every other as evidence. To the gate, what another build could mend is refused like the rest.
"""

from __future__ import annotations

from enginekeeper.compatibility.decision import blocking_at
from enginekeeper.compatibility.places import Place
from registry.environments import Environment
from registry.gate import Compatibility, Refusal
from registry.keys import EngineKey


def refusal(key: EngineKey, environment: Environment) -> Refusal | None:
    """Says why an engine of this key cannot work there, or None; on which host is not asked."""
    return _refusal(key, Place(environment))


def refusal_on(os: str, cpu_architecture: str) -> Compatibility:
    """Returns the same function for a host whose operating system and CPU are known."""
    return lambda key, environment: _refusal(
        key, Place(environment, os=os, cpu_architecture=cpu_architecture)
    )


def _refusal(key: EngineKey, place: Place) -> Refusal | None:
    found = blocking_at(key, place)
    if not found:
        return None
    first, *others = found
    evidence = (
        f"source: {first.rule.source}",
        *(f"{one.rule.identifier}: {one}" for one in others),
    )
    return Refusal(first.rule.identifier, str(first), evidence)
