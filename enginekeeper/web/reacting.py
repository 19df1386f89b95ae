"""Notices a node that reports another driver than before, and has its engines held against it.

A node whose driver is not known counts as changed, and one of the last minute before the service
began: what happened while nobody looked is looked at once. Nodes that change together are one plan
for each driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from enginekeeper.fleet.ingest import Offered
from enginekeeper.fleet.nodes import NodeFacts, facts_of
from enginekeeper.orchestration.rollout.found import react
from registry.service import Registry

_LOG = logging.getLogger(__name__)
_LOOKED_AT = timedelta(minutes=1)
"""How long before a service ended its reports had surely been looked at."""


@dataclass
class DriverWatch:
    """What the nodes' drivers were, and which of them have to be looked at."""

    registry: Callable[[], Registry]
    _drivers: dict[str, str | None] = field(default_factory=dict)
    _changed: dict[str, NodeFacts] = field(default_factory=dict)
    """Node to what its inventory told of it."""

    def learn(self) -> None:
        """Learns the drivers that nodes reported long enough ago to have been looked at then."""
        with self.registry().catalogue.read() as view:
            self._drivers.update(view.fleet.drivers_looked_at(_LOOKED_AT))

    def noticed(self, offered: Offered) -> None:
        """Takes a report that was recorded; the last of a node counts."""
        name, driver = offered.speaker.name, offered.report.driver
        is_new = name not in self._drivers or self._drivers[name] != driver
        self._drivers[name] = driver
        if is_new or name in self._changed:
            self._changed[name] = facts_of(offered.inventory)

    def look(self) -> None:
        """Records waves for what is not qualified; what cannot be looked at now is kept."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        looked = False
        try:
            found = react(self.registry(), [*changed.values()], now=datetime.now(UTC))
            looked = True
        finally:
            if not looked:
                self._changed = {**changed, **self._changed}
        for name, why in found.unknown.items():
            _LOG.warning("node %s: %s", name, why)
        for name in found.unqualified:
            _LOG.warning("node %s: engines on it are not qualified for its driver", name)
        for name in found.waves:
            _LOG.warning("recorded: enginekeeper wave status %s", name)
