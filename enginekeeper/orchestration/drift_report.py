"""The drift of a fleet: its states asked of the catalogue, each held against what should be.

Two ways to know of engines. `verified`: every signature that a decision goes by is checked, as for
waves. Otherwise what the catalogue records is believed: that is enough to count, takes no
cryptography, and is what a summary of a whole fleet goes by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from enginekeeper.compatibility.decision import Judgement
from enginekeeper.fleet.health import CLOCK_MAY_BE_OFF, STALE_AFTER
from enginekeeper.fleet.images import ImageName
from enginekeeper.fleet.picking import Picking, selector
from enginekeeper.fleet.profiles import Profile
from enginekeeper.fleet.wire import DesiredEngine
from enginekeeper.orchestration.attested import known_environments
from enginekeeper.orchestration.drift import (
    GRAVEST_FIRST,
    DriftKind,
    Finding,
    Judge,
    KnownEngine,
    Severity,
)
from enginekeeper.orchestration.drift_containers import Named, container_findings
from enginekeeper.orchestration.drift_waivers import Waivers
from enginekeeper.orchestration.wave_planning import known_engines
from enginekeeper.orchestration.waves import FleetEngine
from enginekeeper.uncollected import uncollected
from registry.fleet.queries import FleetView
from registry.fleet.types import Assignment, DriftIgnore, FleetState
from registry.keys import EngineKey
from registry.queries import View
from registry.service import Registry
from registry.types import Result

IN_SYNC, OUT_OF_SYNC, UNASSIGNED = "in-sync", "out-of-sync", "unassigned"
UNKNOWN_SYNC = "unknown"
"""Of a node that never reported."""


@dataclass(frozen=True)
class StateDrift:
    """Nodes that are alike, what should run on them, and what is otherwise."""

    state: FleetState
    profile: Profile
    desired: tuple[DesiredEngine, ...]
    findings: tuple[Finding, ...]

    @property
    def sync(self) -> str:
        """Whether they are as they should be; what somebody wants so is."""
        if any(one.ignored is None for one in self.findings):
            return OUT_OF_SYNC
        return IN_SYNC if self.desired else UNASSIGNED


@dataclass(frozen=True)
class FleetDrift:
    """Every state of the fleet; nodes that never reported are in none."""

    states: tuple[StateDrift, ...]
    stale: Mapping[int, int]
    """How many nodes of each profile were not heard lately."""
    clock_off: Mapping[int, int]
    """How many of those that were heard have a clock that is off."""
    silent: int
    """How many nodes never reported."""
    ignored_stale: Mapping[int, str]
    """Profiles whose silence somebody wants, and why."""
    overdue: Mapping[str, str | None]
    """Nodes that should have reported by now and never did, and why somebody wants that."""

    @property
    def has_drift(self) -> bool:
        """Says whether anything is otherwise that nobody wants so."""
        return self._has_stale or any(one.sync == OUT_OF_SYNC for one in self.states)

    @property
    def _has_stale(self) -> bool:
        unwanted = any(profile not in self.ignored_stale for profile in self.stale)
        return unwanted or None in self.overdue.values()

    def worst(self) -> Severity | None:
        """Returns the gravest severity of what nobody wants so."""
        found = {
            one.severity for state in self.states for one in state.findings if one.ignored is None
        }
        if self._has_stale:
            found.add(Severity.LOW)
        return next((one for one in GRAVEST_FIRST if one in found), None)

    def summary(self) -> dict[str, Any]:
        """Returns the fleet in numbers: nodes by sync status, by health, by class of drift."""
        sync: Counter[str] = Counter({UNKNOWN_SYNC: self.silent} if self.silent else {})
        nodes: Counter[str] = Counter()
        problems: Counter[int] = Counter()
        kinds: Counter[str] = Counter()
        ignored: Counter[str] = Counter()
        for one in self.states:
            sync[one.sync] += one.state.nodes
            nodes["all"] += one.state.nodes
            if one.profile.ills:
                problems[one.state.profile] += one.state.nodes
            for kind in {found.kind for found in one.findings if found.ignored is None}:
                kinds[kind] += one.state.nodes
            for kind in {found.kind for found in one.findings if found.ignored is not None}:
                ignored[kind] += one.state.nodes
        for profile, count in self.stale.items():
            (ignored if profile in self.ignored_stale else kinds)[DriftKind.STALE] += count
        for why in self.overdue.values():
            (kinds if why is None else ignored)[DriftKind.STALE] += 1
        stale = sum(self.stale.values())
        degraded = sum(count - self.stale.get(row, 0) for row, count in problems.items())
        degraded += sum(count for row, count in self.clock_off.items() if row not in problems)
        return {
            "nodes": nodes["all"] + self.silent,
            "states": len(self.states),
            "sync": dict(sorted(sync.items())),
            "health": {
                "healthy": nodes["all"] - stale - degraded, "degraded": degraded,
                "stale": stale, "silent": self.silent,
            },
            "drift": {str(kind): kinds[kind] for kind in DriftKind if kinds[kind]},
            "ignored": {str(kind): ignored[kind] for kind in DriftKind if ignored[kind]},
            "worst": None if (worst := self.worst()) is None else str(worst),
        }  # fmt: skip


@uncollected()
def drift_of(
    registry: Registry,
    now: datetime,
    *,
    verified: bool,
    stale_after: timedelta = STALE_AFTER,
) -> FleetDrift:
    """Returns the drift of every enrolled node, state by state."""
    with registry.catalogue.read() as view:
        fleet = view.fleet
        states = fleet.states()
        sets = fleet.engine_sets({one.engine_set for one in states})
        documents = fleet.profiles({one.profile for one in states})
        profiles = {row: Profile.of_document(one) for row, one in documents.items()}
        assignments = fleet.assignments()
        runs = _runs(fleet, sets, assignments)
        ignores = [one for one in fleet.ignores() if one.expires_at is None or one.expires_at > now]
        positions = _positions(fleet.positions(), assignments)
        digests = {engine for having in sets.values() for engine, _, _ in having}
        digests |= {engine for engines in positions.values() for engine in engines}
        stale, clock_off = fleet.profiles_amiss(now - stale_after, CLOCK_MAY_BE_OFF)
        silent, overdue = len(fleet.silent()), fleet.unheard_since(now - stale_after)
        engines = {} if verified else recorded_engines(view, digests)
        named = fleet.engines_named(digests) if verified else {}
    if verified:
        facts = known_engines(registry, sorted(digests), simulated_nodes=True)
        engines = {
            digest: KnownEngine(one, named[digest].model, named[digest].simulated)
            for digest, one in facts.items()
        }
    waivers = Waivers(registry, engines, verified=verified)
    judge = Judge(engines, positions, now.date(), registry.driver_scope, waivers.excuse)
    held = _Held(judge, profiles, sets, runs, _Wanted(assignments))
    found = [held.drift(one) for one in states]
    excused = [_excused(one, ignores, waivers) for one in found]
    return FleetDrift(
        tuple(excused), stale, clock_off, silent,
        {
            row: why
            for row in stale
            if (why := _wanted_stale(profiles[row].by_operator, ignores)) is not None
        },
        {name: _wanted_stale(_unheard(*known), ignores) for name, known in overdue.items()},
    )  # fmt: skip


def recorded_engines(view: View, digests: Iterable[str]) -> dict[str, KnownEngine]:
    """Returns what the catalogue records of engines; no signature is asked."""
    held = {str(digest): str(kind) for digest, kind in view.held_engines().items()}
    recorded = list(view.fleet.engines_recorded(digests))
    said = view.fleet.judged(row for row, *_ in recorded)
    environments = known_environments(view, {where for one in said.values() for where, *_ in one})
    judgements = {
        one: tuple(
            Judgement(environments[where], Result(result), issued_at=at)
            for where, result, at in one
        )
        for one in {(), *said.values()}
    }  # once for all engines of which the same was said
    return {
        digest: KnownEngine(
            FleetEngine(
                digest, EngineKey.recorded(hard, soft), variant, size,
                judgements[said.get(row, ())], withdrawn=held.get(digest),
            ),
            model,
            simulated,
        )
        for row, digest, hard, soft, variant, size, model, simulated in recorded
    }  # fmt: skip


def _runs(
    fleet: FleetView, sets: Mapping[int, Sequence[Any]], assignments: Sequence[Assignment]
) -> dict[int, list[tuple[str, str | None]]]:
    """Returns the engines that run, with the images they run in, by the rows of sets.

    Where no assignment names an image nothing is asked: then no image is drift.
    """
    if not any(one.container for one in assignments):
        return {}
    told = fleet.images(sets)
    return {
        row: told.get(row)
        or [(engine, None) for engine in {one for one, _, runs in having if runs is not None}]
        for row, having in sets.items()
    }


def _positions(
    positions: Sequence[tuple[str, str, str]], assignments: Sequence[Assignment]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Returns the engines of the channels that are assigned, by model and channel."""
    found: dict[tuple[str, str], tuple[str, ...]] = {
        (one.model, one.channel): () for one in assignments
    }
    for channel, model, engine in positions:
        if (model, channel) in found:
            found[model, channel] = (*found[model, channel], engine)
    return found


class _Wanted:
    """What is assigned to which nodes, by selector."""

    def __init__(self, assignments: Sequence[Assignment]) -> None:
        self._picking = Picking(one.selector for one in assignments)
        self._by_selector: dict[str, list[tuple[tuple[str, str], ImageName | None]]] = {}
        for one in assignments:
            image = None if one.container is None else ImageName.parse(one.container)
            of_selector = self._by_selector.setdefault(one.selector, [])
            of_selector.append(((one.model, one.channel), image))

    def on(self, profile: Profile) -> Named:
        """Returns models and channels that are assigned to nodes of a profile, by name.

        With the images that are named for them; none where any will do.
        """
        found: dict[tuple[str, str], tuple[ImageName, ...]] = {}
        for text in self._picking.picking(profile):
            for about, image in self._by_selector[text]:
                images = found.setdefault(about, ())
                if image is not None and image not in images:
                    found[about] = (*images, image)
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Held:
    """Holds the states of a fleet against what should be."""

    judge: Judge
    profiles: Mapping[int, Profile]
    sets: Mapping[int, Sequence[Sequence[str | None]]]
    runs: Mapping[int, Sequence[tuple[str, str | None]]]
    wanted: _Wanted
    _on: dict[int, tuple[Named, tuple[DesiredEngine, ...]]] = field(default_factory=dict)
    """What is wanted on nodes of a profile, by its row."""

    def drift(self, state: FleetState) -> StateDrift:
        """Returns what is otherwise in a state."""
        profile = self.profiles[state.profile]
        known = self._on.get(state.profile)
        if known is None:
            asked = self.wanted.on(profile)
            known = asked, tuple(self.judge.wanted(profile, *one) for one in asked)
            self._on[state.profile] = known
        asked, desired = known
        findings = self.judge.findings(profile, self.sets[state.engine_set], desired)
        if runs := self.runs.get(state.engine_set):
            findings += tuple(container_findings(runs, desired, asked, self.judge.engines))
        return StateDrift(state, profile, desired, findings)


def _excused(drift: StateDrift, ignores: Sequence[DriftIgnore], waivers: Waivers) -> StateDrift:
    """Marks what somebody wants so: by a rule, or by a waiver of the engine there."""
    if not drift.findings:
        return drift
    if not ignores and all(one.environment is None for one in drift.findings):
        return drift
    findings, profile = [], drift.profile.by_operator if ignores else drift.profile
    for one in drift.findings:
        why = _wanted(one.kind, one.severity, profile, ignores)
        why = why or waivers.excuse(one, drift.profile)
        findings.append(one if why is None else replace(one, ignored=why))
    return replace(drift, findings=tuple(findings))


def _wanted(
    kind: DriftKind, severity: Severity, profile: Profile, ignores: Sequence[DriftIgnore]
) -> str | None:
    """Returns why somebody wants drift so; what is critical must be called by its class."""
    kinds = (kind,) if severity is Severity.CRITICAL else (kind, "*")
    for one in ignores:
        if one.kind in kinds and selector(one.selector)(profile):
            return f"{one.reason} ({one.actor})"
    return None


def _wanted_stale(profile: Profile, ignores: Sequence[DriftIgnore]) -> str | None:
    return _wanted(DriftKind.STALE, Severity.LOW, profile, ignores)


def _unheard(labels: Mapping[str, str], simulated: bool) -> Profile:  # noqa: FBT001 - of a row
    """Returns what is known of a node that never reported."""
    return Profile((), None, "", "", (), 0, simulated=simulated, labels=labels)
