"""Notices a node that reports another driver than before, and has its engines held against it.

A node whose driver was not known since the service began counts as changed: what happened while
nobody listened is looked at once. Nodes that change together are one plan for each driver.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from enginekeeper.fleet.ingest import Offered
from enginekeeper.fleet.inventories import parse_inventory
from enginekeeper.fleet.nodes import facts_of
from enginekeeper.orchestration.rollout.found import react
from registry.service import Registry

_LOG = logging.getLogger(__name__)


@dataclass
class DriverWatch:
    """What the nodes' drivers were, and which of them have to be looked at."""

    registry: Callable[[], Registry]
    _drivers: dict[str, str | None] = field(default_factory=dict)
    _changed: dict[str, bytes] = field(default_factory=dict)
    """Node to the inventory that told of it."""

    def noticed(self, offered: Offered) -> None:
        """Takes a report that was recorded; the last of a node counts."""
        name, driver = offered.speaker.name, offered.report.driver
        if name not in self._drivers or self._drivers[name] != driver:
            self._drivers[name] = driver
            self._changed[name] = offered.report.document
        elif name in self._changed:
            self._changed[name] = offered.report.document

    def look(self) -> None:
        """Records waves for what is not qualified; what cannot be looked at now is kept."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        looked = False
        try:
            nodes = [
                facts_of(parse_inventory(zlib.decompress(document), name))
                for name, document in changed.items()
            ]
            found = react(self.registry(), nodes, now=datetime.now(UTC))
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
