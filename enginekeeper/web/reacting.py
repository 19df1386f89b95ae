"""Has the engines of nodes held against the drivers that the nodes have, while the service runs.

Rules:

- a node that reports another driver, or its first one here, is looked at within moments; nodes
  that change together are one plan for each driver; a look that takes long is followed by a pause,
  so that a fleet that is upgraded at once is still heard, but by none longer than a minute: no
  driver is left alone for what others took;
- the whole fleet is looked at as soon as the service runs, and every few minutes: whatever was
  missed (a service that was killed, a wave that was aborted, a verdict that was lost) is found;
- waves that were found go on by a step each minute;
- what cannot be looked at now is kept, and looked at later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

from enginekeeper.errors import MissingError
from enginekeeper.fleet.ingest import Offered
from enginekeeper.fleet.nodes import NodeFacts, facts_of
from enginekeeper.orchestration.fleet_reading import read_nodes
from enginekeeper.orchestration.rollout.found import Reaction, follow, react
from registry.service import Registry

_LOG = logging.getLogger(__name__)
_WHOLE_SECONDS = 600.0
"""How often the whole fleet is looked at."""
_STEP_SECONDS = 60.0
"""How often found waves go on, and how soon a look at the whole fleet that failed is repeated."""
_SHARE = 20
"""A look at everything is followed by as many times its own time without one."""
_PAUSE, _LONGEST_PAUSE = 10, 60.0
"""A look at what changed is followed by as many times its own time without one, and how many
seconds that is at most."""
_NAMED = 3
"""How many nodes a line in the log names."""


@dataclass
class DriverWatch:
    """What the nodes' drivers were, and which of them have to be looked at."""

    registry: Callable[[], Registry]
    clock: Callable[[], float] = monotonic
    _drivers: dict[str, str | None] = field(default_factory=dict)
    _changed: dict[str, NodeFacts] = field(default_factory=dict)
    """Node to what its inventory told of it."""
    _whole_at: float = field(init=False)
    """When the whole fleet is looked at next."""
    _step_at: float = field(init=False)
    _changes_at: float = field(init=False)
    """When nodes that changed are looked at next."""
    _said: frozenset[str] = frozenset()
    """What was said of the whole fleet when it was last looked at."""

    def __post_init__(self) -> None:
        self._whole_at = self._step_at = self._changes_at = self.clock()

    def noticed(self, offered: Offered) -> None:
        """Takes a report that was recorded; the last of a node counts."""
        name, driver = offered.speaker.name, offered.report.driver
        is_new = name not in self._drivers or self._drivers[name] != driver
        self._drivers[name] = driver
        if is_new or name in self._changed:
            self._changed[name] = facts_of(offered.inventory)

    def look(self) -> None:
        """Looks at what changed, and at the whole fleet and the waves when it is time."""
        if self._changed and (start := self.clock()) >= self._changes_at:
            try:
                self.look_at_changes()
            finally:  # after a failure, too: else all other looks wait behind it
                end = self.clock()
                self._changes_at = end + min(_PAUSE * (end - start), _LONGEST_PAUSE)
        if (start := self.clock()) >= self._whole_at:
            self._whole_at = start + _STEP_SECONDS
            self._look_at_all()
            self._whole_at = self._next(start, _WHOLE_SECONDS)
        if (start := self.clock()) >= self._step_at:
            self._step_at = start + _STEP_SECONDS
            for wave in follow(self.registry(), now=datetime.now(UTC)):
                _LOG.info("wave %s: %s", wave.name, wave.phase)
            self._step_at = self._next(start, _STEP_SECONDS)

    def _next(self, start: float, seconds: float) -> float:
        """Returns when something is done again that is done every so many seconds."""
        end = self.clock()
        return end + max(seconds, _SHARE * (end - start))

    def look_at_changes(self) -> None:
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
        _tell_waves(found)

    def _look_at_all(self) -> None:
        registry = self.registry()
        try:
            nodes = read_nodes(registry, ())
        except MissingError:  # nobody is enrolled yet
            return
        found = react(registry, nodes, now=datetime.now(UTC))
        said = frozenset(_lines(found))
        for line in sorted(said - self._said):
            _LOG.warning("%s", line)
        self._said = said
        _tell_waves(found)


def _tell_waves(found: Reaction) -> None:
    for name in found.waves:
        _LOG.warning("recorded: enginekeeper wave status %s", name)


def _lines(found: Reaction) -> Iterable[str]:
    """Says what is wrong in the whole fleet: a line for each reason."""
    if found.unqualified:
        yield f"engines are not qualified for the driver of {_nodes(found.unqualified)}"
    for why in dict.fromkeys(found.unknown.values()):
        yield f"{why}: {_nodes(name for name, said in found.unknown.items() if said == why)}"


def _nodes(names: Iterable[str] | Mapping[str, object]) -> str:
    known = sorted(names)
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return f"{', '.join(known[:_NAMED])}{more}"
