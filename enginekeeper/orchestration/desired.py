"""What should run on a node: assignments that pick it, each resolved to an engine by the gate.

Rules:

- an assignment names a model and a channel; which engine that is on a node follows from the
  node's profile: of the channel's engines those that fit its hardware, one with an open gate first;
- where there is none the reason is said: a node that is told nothing could not say why;
- nodes of one profile get the same answer, which is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from enginekeeper.fleet.picking import selector
from enginekeeper.fleet.profiles import Profile
from enginekeeper.fleet.wire import Desired, DesiredEngine
from registry.fleet.types import Assignment
from registry.gate import GateDecision
from registry.service import Registry
from registry.types import Engine

_SECONDS = 60.0
"""How long an answer holds even if nothing was recorded: a snapshot or a key may have expired."""


def desired_on(
    registry: Registry, profile: Profile, assignments: Sequence[Assignment]
) -> tuple[DesiredEngine, ...]:
    """Returns what should run on nodes of a profile, by model and channel."""
    wanted = {(one.model, one.channel) for one in assignments if selector(one.selector)(profile)}
    return tuple(_resolved(registry, profile, *one) for one in sorted(wanted))


def _resolved(registry: Registry, profile: Profile, model: str, channel: str) -> DesiredEngine:
    with registry.catalogue.read() as view:
        engines = view.on_channel(channel, model)
    if not engines:
        return DesiredEngine(model, channel, None, "the channel has no engine of the model")
    asked = [(one, _decision(registry, profile, one)) for one in engines]
    fitting = [(one, decision) for one, decision in asked if decision is not None]
    if not fitting:
        targets = ", ".join(one.target for one in engines)
        return DesiredEngine(model, channel, None, f"no engine for this hardware: only {targets}")
    for engine, decision in fitting:
        if decision.is_open:
            return DesiredEngine(model, channel, str(engine.digest))
    engine, decision = fitting[0]
    reason = f"gate {decision.outcome} for {engine.digest.short}: {decision.reason}"
    return DesiredEngine(model, channel, None, " ".join(reason.split()))


def _decision(registry: Registry, profile: Profile, engine: Engine) -> GateDecision | None:
    """Returns what the gate says of an engine on such nodes, None where it is for other hardware.

    Of several kinds of GPU that it fits, the first with a closed gate decides.
    """
    product = engine.key.hard.get("gpu_product")
    if product is not None and product not in {one.product for one in profile.kinds}:
        return None
    decisions = [
        registry.gate(engine.digest, environment, simulated_node=profile.simulated)
        for environment in profile.meets(engine.key)
    ]
    return next((one for one in decisions if not one.is_open), decisions[0] if decisions else None)


@dataclass
class DesiredStates:
    """The answers for all profiles of a fleet, kept until something is recorded."""

    registry: Callable[[], Registry]
    """With the trust of now."""
    clock: Callable[[], float] = monotonic
    _known: dict[int, tuple[float, tuple[DesiredEngine, ...]]] = field(default_factory=dict)

    def forget(self) -> None:
        """Lets every answer be asked for again."""
        self._known = {}

    def cached(self, profile: int) -> tuple[DesiredEngine, ...] | None:
        """Returns the answer for a profile's row, None where it is to be worked out."""
        at, found = self._known.get(profile, (0.0, None))
        return found if found is not None and self.clock() - at < _SECONDS else None

    def work_out(self, profile: int) -> tuple[DesiredEngine, ...]:
        """Asks assignments, channels and gate about a profile's row."""
        registry, at = self.registry(), self.clock()
        with registry.catalogue.read() as view:
            document = view.fleet.profiles([profile])[profile]
            assignments = view.fleet.assignments()
        found = desired_on(registry, Profile.of_document(document), assignments)
        self._known[profile] = (at, found)
        return found


def desired_digest(engines: Sequence[DesiredEngine]) -> str | None:
    """Returns what a heartbeat's answer calls them; None where nothing is assigned."""
    return Desired("-", tuple(engines)).digest if engines else None
