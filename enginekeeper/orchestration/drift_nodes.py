"""Drift node by node: since when, and whose doing it was.

Whose doing: drift is *intentional* where somebody's recorded change is newer than what is on the
node (a channel was moved, an engine revoked): the node has yet to follow. It is *corrective* where
the node changed after that: it is to be put back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from enginekeeper.fleet.health import STALE_AFTER, Diagnosis, Health, diagnose
from enginekeeper.orchestration.drift import DriftKind, FieldDrift, Finding, Severity
from enginekeeper.orchestration.drift_containers import RUNS_IN
from enginekeeper.orchestration.drift_report import (
    UNKNOWN_SYNC,
    FleetDrift,
    StateDrift,
)
from registry.fleet.types import Node
from registry.queries import View

INTENTIONAL, CORRECTIVE = "intentional", "corrective"
_OF_THE_NODE = frozenset({DriftKind.DRIVER, DriftKind.CUDA})
_OF_THE_CHANNEL = frozenset(
    {DriftKind.ENGINE, DriftKind.BUILD_FLAGS, DriftKind.CONTAINER, DriftKind.MISSING}
)


@dataclass(frozen=True)
class NodeFinding:
    """One thing that is otherwise on one node."""

    finding: Finding
    since: datetime | None
    cause: str

    def as_dict(self) -> dict[str, Any]:
        """Returns it as a JSON object."""
        one = self.finding
        return {
            "class": str(one.kind),
            "severity": str(one.severity),
            "cause": self.cause,
            "since": None if self.since is None else self.since.isoformat(),
            "engine": one.engine,
            "model": None if one.wanted is None else one.wanted[0],
            "channel": None if one.wanted is None else one.wanted[1],
            "fields": [vars(each) for each in one.fields],
            "reason": one.reason,
            "ignored": one.ignored,
        }


@dataclass(frozen=True)
class NodeDrift:
    """One node: sync status, health, and what is otherwise."""

    node: str
    simulated: bool
    sync: str
    diagnosis: Diagnosis
    findings: tuple[NodeFinding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns it as a JSON object."""
        return {
            "node": self.node,
            "simulated": self.simulated,
            "sync": self.sync,
            "health": str(self.diagnosis.health),
            "why": list(self.diagnosis.reasons),
            "findings": [one.as_dict() for one in self.findings],
        }


@dataclass(frozen=True)
class _Times:
    """When things became as they are: on nodes, and by people."""

    profiles: Mapping[str, datetime]
    placed: Mapping[tuple[str, str], datetime]
    assigned: Mapping[tuple[str, str], datetime]
    """By model and channel."""
    contained: Mapping[tuple[str, str, str], datetime]
    """When an image was named, by model, channel and image."""
    moved: Mapping[tuple[str, str, str | None], datetime]
    """By model, channel and engine, if it still is the channel's; None for the last move of any."""
    held: Mapping[str, datetime]

    def of(self, node: str, one: Finding) -> tuple[datetime | None, str]:
        """Returns since when something is otherwise on a node, and whose doing it was."""
        there = self.profiles.get(node)
        if one.engine is not None and one.kind not in _OF_THE_NODE:
            there = self.placed.get((node, one.engine), there)
        wanted = None
        if one.wanted is not None and one.fields[0].field == RUNS_IN:
            wanted = self.contained.get((*one.wanted, one.fields[0].desired or ""))
        elif one.kind in _OF_THE_CHANNEL and one.wanted is not None:
            wanted = self._wanted(one.wanted, one.fields[0].desired)
        elif one.kind is DriftKind.REVOKED and one.engine is not None:
            wanted = self.held.get(one.engine)
        if wanted is None or (there is not None and there >= wanted):
            return there, CORRECTIVE
        return wanted, INTENTIONAL

    def _wanted(self, about: tuple[str, str], engine: str | None) -> datetime | None:
        """Returns since when an engine is wanted; a move for other hardware is not about it."""
        moved = self.moved.get((*about, engine)) or self.moved.get((*about, None))
        times = (self.assigned.get(about), moved)
        return max((one for one in times if one is not None), default=None)


def node_drifts(
    view: View, drift: FleetDrift, now: datetime, *, stale_after: timedelta = STALE_AFTER
) -> list[NodeDrift]:
    """Returns every enrolled node, by name, with what is otherwise on it."""
    of_state = {(one.state.profile, one.state.engine_set): one for one in drift.states}
    nodes = view.fleet.nodes()
    otherwise = {
        one.name for one in nodes if (state := _state(one, of_state)) is not None and state.findings
    }
    times = _times(view, drift, otherwise)
    return [
        _of_node(one, _state(one, of_state), drift, times, now=now, stale_after=stale_after)
        for one in nodes
    ]


def _state(node: Node, of_state: Mapping[tuple[int, int], StateDrift]) -> StateDrift | None:
    """Returns the state of a node; None before it reported."""
    if node.profile is None or node.engine_set is None:
        return None
    return of_state.get((node.profile, node.engine_set))


def _of_node(
    node: Node,
    state: StateDrift | None,
    drift: FleetDrift,
    times: _Times,
    *,
    now: datetime,
    stale_after: timedelta,
) -> NodeDrift:
    problems = None if state is None else state.profile.ills
    diagnosis = diagnose(
        problems, node.seen_at, now, clock_offset=node.clock_offset, stale_after=stale_after
    )
    found = [
        NodeFinding(one, *times.of(node.name, one))
        for one in (() if state is None else state.findings)
    ]
    sync = UNKNOWN_SYNC if state is None else state.sync
    if diagnosis.health is Health.STALE:
        why = drift.ignored_stale.get(node.profile or 0)
        found.append(NodeFinding(_stale(diagnosis, why), node.seen_at, CORRECTIVE))
    if node.name in drift.overdue:
        never = _stale(diagnosis, drift.overdue[node.name])
        found.append(NodeFinding(never, node.enrolled_at, CORRECTIVE))
    return NodeDrift(node.name, node.simulated, sync, diagnosis, tuple(found))


def _stale(diagnosis: Diagnosis, ignored: str | None) -> Finding:
    said = diagnosis.reasons[0]
    fields = (FieldDrift("heartbeat", "a recent one", said),)
    return Finding(DriftKind.STALE, Severity.LOW, None, fields, said, ignored=ignored)


def _times(view: View, drift: FleetDrift, nodes: set[str]) -> _Times:
    assigned: dict[tuple[str, str], datetime] = {}
    contained: dict[tuple[str, str, str], datetime] = {}
    for assignment in view.fleet.assignments():
        at = (assignment.model, assignment.channel)
        assigned[at] = min(assigned.get(at, assignment.assigned_at), assignment.assigned_at)
        image, named = assignment.container, assignment.container_at
        if image is not None and named is not None:
            contained[*at, image] = min(contained.get((*at, image), named), named)
    moved: dict[tuple[str, str, str | None], datetime] = {}
    for position in view.channels():
        at, when = (position.model_name, position.channel), position.moved_at
        if at in assigned:
            for engine in (str(position.engine), None):
                moved[*at, engine] = max(moved.get((*at, engine), when), when)
    revoked = {
        one.engine
        for state in drift.states
        for one in state.findings
        if one.kind is DriftKind.REVOKED
    }
    held = [digest for digest in view.held_engines() if str(digest) in revoked]
    changes = view.standings(held)
    return _Times(
        view.fleet.profiles_since(nodes),
        view.fleet.placed_since(nodes),
        assigned,
        contained,
        moved,
        {str(digest): changes[digest][0].changed_at for digest in held},
    )
