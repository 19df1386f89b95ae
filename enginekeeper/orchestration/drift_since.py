"""Since when something is otherwise on a node, and whose doing it was.

Rules:

- what is so still began with the first report of it: a label, a GPU that is lost, a process that
  was started anew on another GPU begin nothing;
- an engine that does not fit a place is there since the later of both: the engine, and the place
  as decisions see it (GPUs, driver, platform); a report that tells of neither ends nothing;
- what is assigned is wanted there since an assignment picks the node with the GPUs that it has;
  where none of a channel's engines may run there, since the last of them was closed;
- drift is *intentional* where what somebody recorded is newer than that (a moved channel, an
  assignment, a revocation, a verdict): the node has yet to follow. It is *corrective* where the
  node changed after it: it is to be put back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from enginekeeper.fleet.picking import Picking
from enginekeeper.fleet.profiles import Profile
from enginekeeper.orchestration.drift import WITHDRAWN, DriftKind, Finding
from enginekeeper.orchestration.drift_containers import RUNS_IN, UNKNOWN_IMAGE
from enginekeeper.orchestration.drift_report import FleetDrift
from registry.environments import DriverScope, Environment, environment_from_dict, judged_there
from registry.fleet.spans import EngineSpan, ProfileSpan, Telling, held_since
from registry.fleet.types import Assignment
from registry.outdated import without_outdated
from registry.queries import View
from registry.standing import held_since as quarantined_since
from registry.types import Result

INTENTIONAL, CORRECTIVE = "intentional", "corrective"
_OF_THE_PLACE = frozenset({DriftKind.DRIVER, DriftKind.CUDA, DriftKind.UNQUALIFIED})
_OF_THE_CHANNEL = frozenset(
    {DriftKind.ENGINE, DriftKind.BUILD_FLAGS, DriftKind.CONTAINER, DriftKind.MISSING}
)
_SAID = frozenset({"failed-there", "inconclusive-there"})
"""Fields of findings that a verdict made."""
Findings = Mapping[str, Sequence[Finding]]
"""What is otherwise, by node."""


@dataclass(frozen=True)
class Times:
    """When things became as they are: on nodes, and by people."""

    places: Mapping[str, datetime]
    """Since when each node is, to decisions, as it is."""
    joined: Mapping[str, datetime]
    """Since when each node is there."""
    picked: Mapping[tuple[str, tuple[str, str]], datetime]
    """Since when what is assigned is for a node as it is, by node, and model and channel."""
    engines: Mapping[tuple[str, str], Sequence[EngineSpan]]
    """By node and engine."""
    assigned: Mapping[tuple[str, str], datetime]
    """By model and channel."""
    contained: Mapping[tuple[str, str, str], datetime]
    """When an image was named, by model, channel and image."""
    moved: Mapping[tuple[str, str, str | None], datetime]
    """By model, channel and engine, if it still is the channel's; None for the last move of any."""
    held: Mapping[str, datetime]
    judged: Mapping[tuple[str, Environment], datetime]
    """Since when no verdict on an engine in an environment is a pass."""

    def of(self, node: str, one: Finding) -> tuple[datetime | None, str]:
        """Returns since when something is otherwise on a node, and whose doing it was.

        None for what somebody did of which nothing here says when: a builder's key that is trusted
        no more, a snapshot that is gone.
        """
        if any(map(self._is_untold, (one, *one.against))):
            return None, INTENTIONAL
        there = self._there(node, one)
        wanted = self._recorded(one)
        if wanted is None or (there is not None and there >= wanted):
            return there, CORRECTIVE
        return wanted, INTENTIONAL

    def _is_untold(self, one: Finding) -> bool:
        withdrawn = one.kind is DriftKind.REVOKED and one.fields[0].field == WITHDRAWN
        return withdrawn and one.engine not in self.held

    def _there(self, node: str, one: Finding) -> datetime | None:
        """Returns since when the node is so that it makes a finding."""
        if one.engine is None:
            return self._missing(node, one)
        spans = [each for each in self.engines.get((node, one.engine), ()) if _makes(each, one)]
        times = [held_since(Telling(each.since, each.until) for each in spans)]
        if one.kind in _OF_THE_PLACE:
            times.append(self.places.get(node))
        if one.wanted is not None:
            times += [self._ended(node, one.fields[0].desired), self.picked.get((node, one.wanted))]
        known = [at for at in times if at is not None]
        return max(known) if known else self.joined.get(node)

    def _missing(self, node: str, one: Finding) -> datetime | None:
        """Returns since when what is desired is not there."""
        desired = one.fields[0].desired or ""
        if ":" in desired:
            there = self._ended(node, desired) or self.joined.get(node)
        else:  # no engine is: none may run there
            there = self.places.get(node)
        picked = None if one.wanted is None else self.picked.get((node, one.wanted))
        return _latest((there, picked))

    def _ended(self, node: str, engine: str | None) -> datetime | None:
        """Returns when an engine was on a node last; None where it never was, or is."""
        spans = self.engines.get((node, engine or ""), ())
        ends = [each.until for each in spans if each.until is not None]
        return max(ends) if ends and len(ends) == len(spans) else None

    def _recorded(self, one: Finding) -> datetime | None:
        """Returns when somebody recorded what makes a finding."""
        if one.wanted is not None and one.fields[0].field == RUNS_IN:
            return self.contained.get((*one.wanted, one.fields[0].desired or ""))
        if one.kind in _OF_THE_CHANNEL and one.wanted is not None:
            wanted = self._wanted(one.wanted, one.fields[0].desired)
            return _latest((wanted, *map(self._closed, _by_engine(one.against).values())))
        if one.kind is DriftKind.REVOKED and one.engine is not None:
            return self.held.get(one.engine)
        if one.engine is not None and one.environment is not None:
            return self.judged.get((one.engine, one.environment))
        return None

    def _closed(self, against: Sequence[Finding]) -> datetime | None:
        """Returns when the first of what stands against an engine was recorded.

        None where something does that nobody recorded: a driver, say.
        """
        times = [self._recorded(one) for one in against]
        known = [at for at in times if at is not None]
        return min(known) if len(known) == len(times) else None

    def _wanted(self, about: tuple[str, str], engine: str | None) -> datetime | None:
        """Returns since when an engine is wanted; a move for other hardware is not about it."""
        moved = self.moved.get((*about, engine)) or self.moved.get((*about, None))
        return _latest((self.assigned.get(about), moved))


def times_of(view: View, drift: FleetDrift, found: Findings, scope: DriverScope) -> Times:
    """Reads when what is otherwise on nodes became so."""
    assigned: dict[tuple[str, str], datetime] = {}
    contained: dict[tuple[str, str, str], datetime] = {}
    assignments = view.fleet.assignments()
    for assignment in assignments:
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
    places, joined, picked = _places(view, found, assignments)
    every = [
        each for state in drift.states for one in state.findings for each in (one, *one.against)
    ]
    engines: dict[tuple[str, str], list[EngineSpan]] = {}
    for span in view.fleet.engine_spans(set(_pairs(found))):
        engines.setdefault((span.node, span.engine), []).append(span)
    return Times(
        places, joined, picked, engines, assigned, contained, moved, _held(view, every),
        _judged(view, every, scope),
    )  # fmt: skip


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((at for at in times if at is not None), default=None)


def _by_engine(findings: Iterable[Finding]) -> dict[str | None, list[Finding]]:
    found: dict[str | None, list[Finding]] = {}
    for one in findings:
        found.setdefault(one.engine, []).append(one)
    return found


def _makes(span: EngineSpan, one: Finding) -> bool:
    """Says whether an engine in one state makes a finding about it."""
    name, actual = one.fields[0].field, one.fields[0].actual
    if one.kind is DriftKind.BYTES:
        return span.bytes == actual
    if name == RUNS_IN and one.wanted is not None:
        told = span.images or [None]
        return span.running is not None and (None if actual == UNKNOWN_IMAGE else actual) in told
    return span.running is not None if name == "running" else True


def _pairs(found: Findings) -> Iterator[tuple[str, str]]:
    """Yields the engines that findings are about, with their nodes: those there, those desired."""
    for node, findings in found.items():
        for one in findings:
            if one.engine is not None:
                yield node, one.engine
            if one.wanted is not None and (desired := one.fields[0].desired) is not None:
                yield node, desired


def _places(
    view: View, found: Findings, assignments: Sequence[Assignment]
) -> tuple[
    dict[str, datetime], dict[str, datetime], dict[tuple[str, tuple[str, str]], datetime]
]:  # fmt: skip
    """Returns since when nodes are as they are to decisions, are there, and are assigned what."""
    by_node: dict[str, list[ProfileSpan]] = {}
    for span in view.fleet.profile_spans(node for node, findings in found.items() if findings):
        by_node.setdefault(span.node, []).append(span)
    rows = {span.profile for spans in by_node.values() for span in spans}
    documents = view.fleet.profiles(rows).items()
    profiles = {row: Profile.of_document(document) for row, document in documents}
    silent = {row for row, one in profiles.items() if one.driver is None and one.problems}
    alike = {row: one.deciding for row, one in profiles.items()}
    asked = _assigned(profiles, assignments)

    places, joined, picked = {}, {}, {}
    for node, spans in by_node.items():
        now = next((one.profile for one in spans if one.until is None), None)
        joined[node] = held_since(Telling(one.since, one.until) for one in spans)
        if now is None:
            continue
        theirs = {one.profile for one in spans}
        same = {row for row in theirs if alike[row] == alike[now]}
        places[node] = _since(spans, same, silent)
        same = {row for row in theirs if profiles[row].kinds == profiles[now].kinds}
        for about in {one.wanted for one in found[node] if one.wanted is not None}:
            wanting = {row for row in same if about in asked[row]}
            picked[node, about] = _since(spans, wanting, silent)
    return _known(places), _known(joined), _known(picked)


def _since(
    spans: Iterable[ProfileSpan], same: Collection[int], silent: Collection[int]
) -> datetime | None:
    """Returns since when a node has some of its profiles, whatever is silent between them."""
    return held_since(
        Telling(one.since, one.until, one.profile in same)
        for one in spans
        if one.profile in silent or one.profile in same
    )


def _assigned(
    profiles: Mapping[int, Profile], assignments: Sequence[Assignment]
) -> dict[int, set[tuple[str, str]]]:
    """Returns what is assigned to nodes of profiles: models with channels."""
    picking = Picking(one.selector for one in assignments)
    of_selector: dict[str, set[tuple[str, str]]] = {}
    for one in assignments:
        of_selector.setdefault(one.selector, set()).add((one.model, one.channel))
    return {
        row: {about for text in picking.picking(profile) for about in of_selector[text]}
        for row, profile in profiles.items()
    }


_Of = TypeVar("_Of")


def _known(times: Mapping[_Of, datetime | None]) -> dict[_Of, datetime]:
    return {about: at for about, at in times.items() if at is not None}


def _held(view: View, findings: Iterable[Finding]) -> dict[str, datetime]:
    revoked = {one.engine for one in findings if one.kind is DriftKind.REVOKED}
    held = [digest for digest in view.held_engines() if str(digest) in revoked]
    changes = view.standings(held)
    since = {str(digest): quarantined_since(changes[digest]) for digest in held}
    return _known(since)


@dataclass(frozen=True)
class _Said:
    """A verdict, as far as it must be known when it was given."""

    environment: Environment
    result: Result
    issued_at: datetime


def _judged(
    view: View, findings: Iterable[Finding], scope: DriverScope
) -> dict[tuple[str, Environment], datetime]:
    """Returns since when the verdicts that made findings are none that pass."""
    asked = {
        (one.engine, one.environment)
        for one in findings
        if one.engine is not None and one.environment is not None and one.fields[0].field in _SAID
    }
    said: dict[str, list[_Said]] = {}
    for engine, document, result, at in view.fleet.verdict_moments({one for one, _ in asked}):
        environment = environment_from_dict(document)
        said.setdefault(engine, []).append(_Said(environment, Result(result), at))
    found = {
        (engine, where): _since_no_pass(judged_there(said.get(engine, ()), where, scope))
        for engine, where in asked
    }
    return {about: at for about, at in found.items() if at is not None}


def _since_no_pass(newest_first: Sequence[_Said]) -> datetime | None:
    """Returns when the first of the verdicts since the last pass was given.

    A pass that was overtaken before it was recorded is none.
    """
    at = None
    for place, one in enumerate(newest_first):
        if one.result is not Result.PASS:
            at = one.issued_at
        elif one in without_outdated(newest_first[place:]):
            break
    return at
