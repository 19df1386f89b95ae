"""Asks the gate about what is recorded, all of one question by one look at the snapshot.

The snapshot is read when the judge is made: once, however many engines are asked about, and before
a unit of work holds the catalogue while a store is slow.

Example:
    judge = Judge(trust, compatibility, DriverScope.EXACT, freshness)
    with catalogue.read() as view:
        recorded = view.recorded(engine.digest)
    judge.decide(engine, recorded, environment, simulated_node=False).is_open
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.beside import NOTHING_LOST, Lost
from registry.environments import DriverScope, Environment
from registry.freshness import Freshness
from registry.gate import Compatibility, GateDecision, GatePolicy, decide
from registry.reading import Recorded
from registry.trust import Trust
from registry.types import Engine


@dataclass(frozen=True)
class Judge:
    """By what the gate decides, but for the engine and the place."""

    trust: Trust
    compatibility: Compatibility
    driver_scope: DriverScope
    freshness: Freshness | None
    """What the snapshot is worth; None where the trust asks for none."""

    @property
    def trusting(self) -> Trust:
        """The trust without the keys that the snapshot revokes, or one that was seen here."""
        return self.trust if self.freshness is None else self.freshness.trusting(self.trust)

    def decide(
        self, engine: Engine, recorded: Recorded, environment: Environment, *,
        simulated_node: bool, lost: Lost = NOTHING_LOST,
    ) -> GateDecision:  # fmt: skip
        """Returns what the gate says of an engine, of its records and of what these lack."""
        policy = GatePolicy(
            self.trusting, self.compatibility, self.driver_scope, simulated_node,
            tuple(lost.among_waivers(recorded.waivers)), self.freshness, lost.unread,
        )  # fmt: skip
        standing = (*lost.standing, *recorded.standing)
        verdicts = (*reversed(lost.verdicts), *recorded.verdicts)
        return decide(engine, verdicts, environment, policy, standing=standing)
