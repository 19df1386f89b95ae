"""Drift node by node: sync, health, and what is otherwise since when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from enginekeeper.fleet.health import STALE_AFTER, Diagnosis, Health, diagnose
from enginekeeper.orchestration.drift import DriftKind, FieldDrift, Finding, Severity
from enginekeeper.orchestration.drift_report import (
    UNKNOWN_SYNC,
    FleetDrift,
    StateDrift,
)
from enginekeeper.orchestration.drift_since import CORRECTIVE, Times, times_of
from registry.environments import DriverScope
from registry.fleet.types import Node
from registry.queries import View


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


def node_drifts(
    view: View,
    drift: FleetDrift,
    now: datetime,
    *,
    stale_after: timedelta = STALE_AFTER,
    scope: DriverScope = DriverScope.EXACT,
) -> list[NodeDrift]:
    """Returns every enrolled node, by name, with what is otherwise on it."""
    of_state = {(one.state.profile, one.state.engine_set): one for one in drift.states}
    nodes = view.fleet.nodes()
    otherwise = {
        one.name: state.findings
        for one in nodes
        if (state := _state(one, of_state)) is not None and state.findings
    }
    times = times_of(view, drift, otherwise, scope)
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
    times: Times,
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
