"""What a node is to run: from model, channel and environment to one engine, through the gate.

A channel has a position for each target of a model. Those whose key was made for other hardware
or another CUDA runtime are passed over; the gate decides about the rest, and its answer is given
even where it is closed: a node that is told nothing could not say why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.environments import Environment, GpuEnvironment
from registry.errors import RecordNotFoundError
from registry.gate import GateDecision
from registry.keys import EngineKey
from registry.queries import View
from registry.types import Engine

Meets = Callable[[EngineKey], Environment]
"""Says what an engine of a key meets on a node: a GPU under its driver, or the CPU."""


@dataclass(frozen=True)
class Resolution:
    """The engine that a channel means for an environment, and what the gate says of it."""

    channel: str
    model: str
    engine: Engine
    decision: GateDecision

    def as_dict(self) -> dict[str, Any]:
        """Returns the resolution as a JSON object."""
        return {
            "channel": self.channel,
            "model": self.model,
            "target": self.engine.target,
            "engine": str(self.engine.digest),
            "stored": self.engine.path,
            "simulated": self.engine.simulated,
            "decision": self.decision.as_dict(),
        }


def resolve(
    view: View,
    channel: str,
    model: str,
    where: Environment | Meets,
    decide: Callable[[Engine, Environment], GateDecision],
) -> Resolution:
    """Returns what a channel means on a node: an open gate before a closed one.

    Raises RecordNotFoundError when the channel has no engine of the model for its hardware.
    """
    meets = where if callable(where) else (lambda _key: where)
    hardware = where if isinstance(where, GpuEnvironment) else None
    places = [(engine, meets(engine.key)) for engine in view.positioned(channel, model, hardware)]
    fitting = [(engine, place) for engine, place in places if _made_for(engine.key, place)]
    if not fitting:
        raise _nothing_there(view.positioned(channel, model), meets, f"{channel} of {model}")
    found = [Resolution(channel, model, one, decide(one, place)) for one, place in fitting]
    return next((one for one in found if one.decision.is_open), found[0])


def _nothing_there(there: Sequence[Engine], meets: Meets, channel: str) -> RecordNotFoundError:
    targets = ", ".join(engine.target for engine in there)
    wanted = sorted({f"one for {meets(engine.key)}" for engine in there})
    return RecordNotFoundError(
        "the channel has no engine for this hardware",
        where=f"channel {channel}",
        actual=f"engines for {targets}" if targets else "no such channel",
        expected=" or ".join(wanted) or None,
        remedy="build one for it and put it there: enginekeeper channel set",
    )


def _made_for(key: EngineKey, environment: Environment) -> bool:
    """Says whether a key names an environment's kind of hardware, and its CUDA runtime."""
    if not isinstance(environment, GpuEnvironment):
        return key.hard.get("gpu_product") is None
    return (
        key.hard.get("gpu_product") == environment.product
        and key.hard.get("compute_capability") == environment.compute_capability
        and key.hard.get("cuda_runtime") == environment.cuda_runtime
    )
