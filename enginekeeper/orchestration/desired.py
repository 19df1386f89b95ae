"""What should run on a node: assignments that pick it, each resolved to an engine by the gate.

Rules:

- an assignment names a model and a channel; which engine that is on a node follows from the
  node's profile: of the channel's engines those that fit its hardware, one with an open gate first;
- where there is none the reason is said: a node that is told nothing could not say why;
- the images that assignments name are told with it: they open no gate, and close none;
- nodes of one profile get the same answer, which is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from time import monotonic

from enginekeeper.compatibility.deployment import refusal_on
from enginekeeper.fleet.picking import selector
from enginekeeper.fleet.profiles import Profile
from enginekeeper.fleet.wire import Desired, DesiredEngine
from registry.digests import Digest
from registry.environments import Environment
from registry.fleet.types import Assignment
from registry.gate import GateDecision
from registry.service import Registry
from registry.types import Engine

_SECONDS = 600.0
"""How long an answer holds even if nothing was recorded: a key or a snapshot may have expired."""


def images_named(
    profile: Profile, assignments: Sequence[Assignment]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Returns what is assigned to nodes of a profile, model and channel, with the images named."""
    found: dict[tuple[str, str], set[str]] = {}
    for one in assignments:
        if selector(one.selector)(profile):
            images = found.setdefault((one.model, one.channel), set())
            images |= {one.container} if one.container is not None else set()
    return {about: tuple(sorted(images)) for about, images in found.items()}


@dataclass(frozen=True)
class _Host:
    """What of a node the gate is told beside the environment."""

    os: str
    cpu_architecture: str
    simulated: bool


class Resolver:
    """Asks channels and gate, each thing once; its answers are as old as it is."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._engines: dict[tuple[str, str], list[Engine]] = {}
        self._decisions: dict[tuple[Digest, Environment, _Host], GateDecision] = {}

    def desired(
        self, profile: Profile, assignments: Sequence[Assignment]
    ) -> tuple[DesiredEngine, ...]:
        """Returns what should run on nodes of a profile, by model and channel."""
        images = images_named(profile, assignments)
        return tuple(
            replace(self._resolved(profile, *one), containers=images[one]) for one in sorted(images)
        )

    def _resolved(self, profile: Profile, model: str, channel: str) -> DesiredEngine:
        engines = self._on_channel(model, channel)
        if not engines:
            return DesiredEngine(model, channel, None, "the channel has no engine of the model")
        asked = [(one, self._decision(profile, one)) for one in engines]
        fitting = [(one, decision) for one, decision in asked if decision is not None]
        if not fitting:
            targets = ", ".join(one.target for one in engines)
            said = f"no engine for this hardware: only {targets}"
            asked_for = {one.key.hard.get("gpu_product") for one in engines}
            if untold := [one for one in profile.untold if one in asked_for]:
                said = f"nobody can tell how {', '.join(untold)} is split (MIG)"
            return DesiredEngine(model, channel, None, said)
        for engine, decision in fitting:
            if decision.is_open:
                return DesiredEngine(model, channel, str(engine.digest))
        engine, decision = fitting[0]
        reason = f"gate {decision.outcome} for {engine.digest.short}: {decision.reason}"
        return DesiredEngine(model, channel, None, " ".join(reason.split()))

    def _on_channel(self, model: str, channel: str) -> list[Engine]:
        found = self._engines.get((model, channel))
        if found is None:
            with self._registry.catalogue.read() as view:
                found = view.positioned(channel, model)
            self._engines[model, channel] = found
        return found

    def _decision(self, profile: Profile, engine: Engine) -> GateDecision | None:
        """Returns what the gate says on such nodes, None where the engine is for other hardware.

        Of several kinds of GPU that it fits, the first with a closed gate decides.
        """
        product = engine.key.hard.get("gpu_product")
        if product is not None and product not in {one.product for one in profile.kinds}:
            return None
        host = _Host(profile.os, profile.cpu_architecture, profile.simulated)
        decisions = [
            self._gate(engine, environment, host) for environment in profile.meets(engine.key)
        ]
        closed = (one for one in decisions if not one.is_open)
        return next(closed, decisions[0] if decisions else None)

    def _gate(self, engine: Engine, environment: Environment, host: _Host) -> GateDecision:
        asked = (engine.digest, environment, host)
        found = self._decisions.get(asked)
        if found is None:
            there = refusal_on(host.os, host.cpu_architecture)
            registry = replace(self._registry, compatibility=there)
            found = registry.gate(engine.digest, environment, simulated_node=host.simulated)
            self._decisions[asked] = found
        return found


@dataclass
class DesiredStates:
    """The answers for all profiles of a fleet, kept until something is recorded."""

    registry: Callable[[], Registry]
    """With the trust of now."""
    clock: Callable[[], float] = monotonic
    _known: dict[int, tuple[DesiredEngine, ...]] = field(default_factory=dict)
    _resolver: Resolver | None = None
    _since: float = 0.0

    def forget(self) -> None:
        """Lets every answer be asked for again."""
        self._known, self._resolver = {}, None

    def cached(self, profile: int) -> tuple[DesiredEngine, ...] | None:
        """Returns the answer for a profile's row, None where it is to be worked out."""
        if self.clock() - self._since > _SECONDS:
            self.forget()
        return self._known.get(profile)

    def work_out(self, profile: int) -> tuple[DesiredEngine, ...]:
        """Asks assignments, channels and gate about a profile's row."""
        known, resolver = self._known, self._resolver
        registry = self.registry()
        if resolver is None:
            resolver, self._since = Resolver(registry), self.clock()
            self._resolver = resolver
        with registry.catalogue.read() as view:
            document = view.fleet.profiles([profile])[profile]
            assignments = view.fleet.assignments()
        found = resolver.desired(Profile.of_document(document), assignments)
        known[profile] = found  # of the time before `forget`, if that was called meanwhile
        return found


@lru_cache(maxsize=4096)  # every heartbeat asks, and the digest takes as long as all else of it
def desired_digest(engines: tuple[DesiredEngine, ...]) -> str | None:
    """Returns what a heartbeat's answer calls them; None where nothing is assigned."""
    return Desired("-", engines).digest if engines else None
