"""What a node is to run: from model, channel and environment to one engine, through the gate.

A channel has a position for each target of a model. Those whose key was made for other hardware
or another CUDA runtime are passed over; the gate decides about the rest, and its answer is given
even where it is closed: a node that is told nothing could not say why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry.environments import Environment
from registry.errors import RecordNotFoundError
from registry.gate import GateDecision
from registry.queries import View
from registry.types import Engine


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
    environment: Environment,
    decide: Callable[[Engine], GateDecision],
) -> Resolution:
    """Returns what a channel means for an environment: an open gate before a closed one.

    Raises RecordNotFoundError when the channel has no engine of the model for this hardware.
    """
    engines = view.positioned(channel, model, environment)
    if not engines:
        targets = [p.target for p in view.channels(model) if p.channel == channel]
        raise RecordNotFoundError(
            "the channel has no engine for this hardware",
            where=f"channel {channel} of {model}",
            actual=f"engines for {', '.join(targets)}" if targets else "no such channel",
            expected=f"one for {environment}",
            remedy="build one for it and put it there: enginekeeper channel set",
        )
    found = [Resolution(channel, model, engine, decide(engine)) for engine in engines]
    return next((one for one in found if one.decision.is_open), found[0])
