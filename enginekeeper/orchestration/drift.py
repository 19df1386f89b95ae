"""Drift: what nodes that are alike have, against what they should have, field by field. Pure.

Rules:

- whether an engine may run on a node is `compatibility.decision`'s to say, as for waves and the
  gate: nothing of it is stored, so that a new driver makes drift with the report that names it;
- what stands in the way is named by the field that differs: the driver where the engine passed
  under another one, the CUDA, or else that it is unqualified;
- an engine that nobody assigned is no drift: the one before is kept for the way back. That it runs
  in place of the one that is desired is: what serves counts before what lies there;
- drift that somebody wants (a rule, a waiver) is shown, and leaves its node in sync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from itertools import chain
from operator import ne
from typing import Any

from enginekeeper.compatibility.decision import Decision, Judgement, decide, latest_there
from enginekeeper.compatibility.places import Place
from enginekeeper.compatibility.placing import Effect
from enginekeeper.fleet.placements import INTACT
from enginekeeper.fleet.profiles import Profile
from enginekeeper.fleet.wire import DesiredEngine
from enginekeeper.orchestration.waves import FleetEngine
from registry.environments import DriverScope, Environment, GpuEnvironment
from registry.keys import HARD_FIELDS, EngineKey, Layer, compare
from registry.types import Result


class DriftKind(StrEnum):
    """What is otherwise than it should be."""

    DRIVER = "driver"
    """An engine is qualified on this GPU, and not under this driver."""
    CUDA = "cuda"
    CONTAINER = "container"
    ENGINE = "engine"
    """Another engine of the model than the one that is desired."""
    BUILD_FLAGS = "build-flags"
    """The engine that is desired, built with other options."""
    MISSING = "missing"
    """What is desired is not there, or there is nothing that may run there."""
    REVOKED = "revoked"
    """Revoked or quarantined, or of the other world (simulated, real)."""
    UNQUALIFIED = "unqualified"
    UNKNOWN = "unknown"
    """The catalogue does not know the engine."""
    BYTES = "bytes"
    """The files are not the engine's any more."""
    STALE = "stale"
    """The node was not heard lately."""


class Severity(StrEnum):
    """How much it matters, the gravest first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


_SEVERITY = {
    DriftKind.REVOKED: Severity.CRITICAL, DriftKind.BYTES: Severity.CRITICAL,
    DriftKind.DRIVER: Severity.HIGH, DriftKind.CUDA: Severity.HIGH,
    DriftKind.UNQUALIFIED: Severity.HIGH, DriftKind.UNKNOWN: Severity.HIGH,
    DriftKind.MISSING: Severity.MEDIUM, DriftKind.ENGINE: Severity.MEDIUM,
    DriftKind.BUILD_FLAGS: Severity.MEDIUM, DriftKind.CONTAINER: Severity.MEDIUM,
    DriftKind.STALE: Severity.LOW,
}  # fmt: skip
_ByProduct = dict[object, list[tuple[int, str]]]
"""Engines with their place on a channel, by the GPU that they were built for; None: for any."""
GRAVEST_FIRST = tuple(Severity)
_ABOUT_FLAGS = frozenset({"build_config"})
_ABOUT_CONTAINER = frozenset({"container"})
_ABOUT_CUDA = frozenset({"cuda_runtime", "cuda_driver"})
_FOLLOWS_DRIVER = frozenset({"driver", "cuda_driver"})
OPAQUE = frozenset(
    {"weights", "recipe", "calibration", "build_config", "builder_code", "builder_lock",
     "quantizer", "quantizer_lock", "quantizer_code", "repairs", "repair_code"}
)  # fmt: skip
"""Fields that no rule about a place reads: engines that differ in nothing else decide alike."""


WITHDRAWN = "standing"
"""Field of a finding about an engine that the gate is closed on everywhere."""
_PLAIN = tuple(name for name in HARD_FIELDS if name not in OPAQUE)


@dataclass(frozen=True)
class FieldDrift:
    """One field: what it should be, and what it is."""

    field: str
    desired: str | None
    actual: str | None


_NOTHING = (FieldDrift("engine", "one that may run here", "none"),)


@dataclass(frozen=True)
class Finding:
    """One thing that is otherwise than it should be."""

    kind: DriftKind
    severity: Severity
    engine: str | None
    """The engine that is there; None where something is not."""
    fields: tuple[FieldDrift, ...]
    reason: str
    wanted: tuple[str, str] | None = None
    """Model and channel of the assignment that asks for something else."""
    ignored: str | None = None
    """Why somebody wants it so."""
    environment: Environment | None = field(default=None, compare=False)
    """Where the engine is not qualified."""
    against: tuple[Finding, ...] = field(default=(), compare=False)
    """What stands against each engine that could be there, where there is none."""

    def about(self, engine: str) -> Finding:
        """Returns the same about an engine; a tenth of what `replace` takes."""
        return Finding(
            self.kind, self.severity, engine, self.fields, self.reason, self.wanted, self.ignored,
            self.environment,
        )  # fmt: skip


@dataclass(frozen=True)
class KnownEngine:
    """An engine as drift needs it."""

    engine: FleetEngine
    model: str
    simulated: bool


@dataclass(frozen=True)
class _Meeting:
    """Engines that are alike in an environment of nodes that are alike."""

    place: Place
    passed: Decision
    """What is decided about one that passed there."""

    @property
    def unopposed(self) -> bool:
        """No rule objects, so that the verdicts decide alone."""
        return self.passed.action is Effect.REUSE


@dataclass
class Judge:
    """Holds states of nodes against what should be; what is alike is decided once."""

    engines: Mapping[str, KnownEngine]
    positions: Mapping[tuple[str, str], tuple[str, ...]]
    """Engines that a channel of a model resolves to, by (model, channel)."""
    on: date
    scope: DriverScope = DriverScope.EXACT
    excuse: Callable[[Finding, Profile], str | None] = lambda _finding, _profile: None
    """Whose waiver lets an engine run where a finding is; None for nobody's."""
    _places: dict[tuple[str, str], tuple[_Meeting, ...]] = field(default_factory=dict)
    _standings: dict[Any, tuple[Finding, ...]] = field(default_factory=dict)
    _alike: dict[str, str] = field(default_factory=dict)
    _judged: dict[tuple[str, int, str], tuple[Finding, ...]] = field(default_factory=dict)
    """By what engines have in common, the identity of what was said of them, and where."""
    _channels: dict[tuple[str, str], _ByProduct] = field(default_factory=dict)
    _wanted: dict[Any, DesiredEngine] = field(default_factory=dict)

    def wanted(self, profile: Profile, model: str, channel: str) -> DesiredEngine:
        """Returns what an assignment means on nodes of a profile."""
        asked = (profile.deciding, model, channel)
        found = self._wanted.get(asked)
        if found is None:
            found = self._wanted[asked] = self._resolved(profile, model, channel)
        return found

    def findings(
        self,
        profile: Profile,
        having: Sequence[Sequence[str | None]],
        desired: Sequence[DesiredEngine],
    ) -> tuple[Finding, ...]:
        """Returns what is otherwise on nodes of a profile that have these engines."""
        there = dict.fromkeys(str(engine) for engine, _, _ in having)
        found = [one for engine in there for one in self.standing(profile, engine)]
        found += _changed(having)
        should = {one.engine for one in desired if one.engine is not None}
        runs = dict.fromkeys(str(engine) for engine, _, running in having if running is not None)
        for one in desired:
            if one.engine is None or one.engine not in there:
                others = [each for each in runs | there if each not in should]
                found.append(self._instead(profile, one, others))
            elif runs and one.engine not in runs:
                found += self._runs_instead(one, [each for each in runs if each not in should])
        return tuple(found)

    def standing(self, profile: Profile, engine: str) -> tuple[Finding, ...]:
        """Returns why an engine should not be on nodes of a profile, whatever is desired."""
        asked = (engine, profile.deciding)
        found = self._standings.get(asked)
        if found is None:
            found = self._standings[asked] = tuple(self._stand(profile, engine))
        return found

    def _stand(self, profile: Profile, engine: str) -> Iterator[Finding]:
        known = self.engines.get(engine)
        if known is None:
            yield _finding(DriftKind.UNKNOWN, engine, "engine", "one of the catalogue", "unknown")
            return
        facts = known.engine
        if facts.withdrawn is not None:
            yield _finding(DriftKind.REVOKED, engine, WITHDRAWN, "good", facts.withdrawn)
            return
        if known.simulated and not profile.simulated:
            said = "made by a double, and the node is real"
            yield _finding(DriftKind.REVOKED, engine, "simulated", "an engine that is real", said)
            return
        for one in self._judged_on(profile, facts):
            yield one.about(engine)

    def _judged_on(self, profile: Profile, facts: FleetEngine) -> tuple[Finding, ...]:
        """Returns what rules and verdicts have against engines that are alike; names none of them.

        Engines of one toolchain for one GPU of which the same was said stand alike everywhere.
        """
        asked = (self._likeness(facts), id(facts.judgements), profile.deciding)
        found = self._judged.get(asked)
        if found is None:
            found = self._judged[asked] = tuple(self._against(profile, facts))
        return found

    def _against(self, profile: Profile, facts: FleetEngine) -> Iterator[Finding]:
        met = self._met(profile, facts)
        if not met:
            kinds = ", ".join(
                f"{one.product}, split nobody can tell how"
                if one.product in profile.untold
                else one.product
                for one in profile.kinds
            )
            wanted, said = str(facts.key.hard.get("gpu_product")), kinds or "no GPU that answers"
            yield _finding(DriftKind.UNQUALIFIED, None, "gpu", wanted, said)
        for one in met:
            environment = one.place.environment
            here = latest_there(facts.judgements, environment, self.scope)
            if one.unopposed:
                if here is None:  # what decides is that it was not judged there
                    yield _elsewhere(facts.judgements, environment)
                    continue
                if here.result is Result.PASS and here.fault is None:
                    continue
            decision = one.passed
            if not decision.whatever_was_said:
                decision = decide(facts.key, facts.judgements, one.place, scope=self.scope)
            yield _unfit(decision, facts.judgements, environment)

    def _met(self, profile: Profile, facts: FleetEngine) -> tuple[_Meeting, ...]:
        """Returns where an engine would run on nodes of a profile, as engines like it would."""
        asked = (self._likeness(facts), profile.deciding)
        found = self._places.get(asked)
        if found is None:
            found = self._places[asked] = tuple(
                self._meeting(profile, facts.key, one) for one in profile.meets(facts.key)
            )
        return found

    def _likeness(self, facts: FleetEngine) -> str:
        """Returns what of an engine any rule reads; the same for those of one toolchain and GPU."""
        found = self._alike.get(facts.digest)
        if found is None:
            key = facts.key
            read = [key.hard.get(name) for name in _PLAIN], sorted(key.soft.items())
            found = self._alike[facts.digest] = repr(read)
        return found

    def _meeting(self, profile: Profile, key: EngineKey, environment: Environment) -> _Meeting:
        place = Place(
            environment, os=profile.os, cpu_architecture=profile.cpu_architecture, on=self.on
        )
        passed = (Judgement(environment, Result.PASS),)
        return _Meeting(place, decide(key, passed, place, scope=self.scope))

    def _resolved(self, profile: Profile, model: str, channel: str) -> DesiredEngine:
        digests = self.positions.get((model, channel), ())
        if not digests:
            return DesiredEngine(model, channel, None, "the channel has no engine of the model")
        fitting = self._on_channel_for(profile, model, channel)
        for one in fitting:
            if all(self.excuse(each, profile) for each in self.standing(profile, one)):
                return DesiredEngine(model, channel, one)
        if not fitting:
            return DesiredEngine(model, channel, None, "no engine for this hardware")
        return DesiredEngine(model, channel, None, self.standing(profile, fitting[0])[0].reason)

    def _against_all(self, profile: Profile, model: str, channel: str) -> tuple[Finding, ...]:
        """Returns what closes each engine of a channel for the GPUs of a profile."""
        return tuple(
            each
            for one in self._on_channel_for(profile, model, channel)
            for each in self.standing(profile, one)
            if not self.excuse(each, profile)
        )

    def _on_channel_for(self, profile: Profile, model: str, channel: str) -> list[str]:
        """Returns the engines of a channel for the GPUs of a profile, or for none, in order."""
        of_product = self._on_channel(model, channel)
        products = {None, *(one.product for one in profile.kinds)}
        return [one for _, one in sorted(chain(*(of_product.get(each, ()) for each in products)))]

    def _on_channel(self, model: str, channel: str) -> _ByProduct:
        """Returns the engines of a channel that are known, by the GPU that each is for."""
        found = self._channels.get((model, channel))
        if found is None:
            found = self._channels[model, channel] = {}
            for place, one in enumerate(self.positions.get((model, channel), ())):
                if (known := self.engines.get(one)) is not None:
                    product = known.engine.key.hard.get("gpu_product")
                    found.setdefault(product, []).append((place, one))
        return found

    def _instead(self, profile: Profile, wanted: DesiredEngine, others: Sequence[str]) -> Finding:
        """Says what is there in place of what is desired."""
        about = (wanted.model, wanted.channel)
        if wanted.engine is None:
            reason = f"{wanted.channel} of {wanted.model}: {wanted.reason or ''}"
            return Finding(
                DriftKind.MISSING, _SEVERITY[DriftKind.MISSING], None, _NOTHING, reason, about,
                against=self._against_all(profile, *about),
            )  # fmt: skip
        desired = self.engines.get(wanted.engine)
        same_model = self._of_model(wanted.model, others)
        if desired is None or not same_model:
            found = _finding(DriftKind.MISSING, None, "engine", wanted.engine, None)
            return replace(found, wanted=about)
        return replace(_between(desired.engine, same_model[0].engine), wanted=about)

    def _runs_instead(self, wanted: DesiredEngine, running: Sequence[str]) -> Iterator[Finding]:
        """Yields what serves a model while the engine that is desired lies there and does not."""
        for known in self._of_model(wanted.model, running):
            found = _finding(
                DriftKind.ENGINE, known.engine.digest, "running", wanted.engine, known.engine.digest
            )
            said = "it runs, and the engine that is desired lies there: restart through run-check"
            yield replace(found, wanted=(wanted.model, wanted.channel), reason=said)

    def _of_model(self, model: str, engines: Sequence[str]) -> list[KnownEngine]:
        found = (self.engines.get(one) for one in engines)
        return [known for known in found if known is not None and known.model == model]


def _changed(having: Sequence[Sequence[str | None]]) -> list[Finding]:
    return [
        _finding(DriftKind.BYTES, engine, "bytes", INTACT, state)
        for engine, state, _ in having
        if state not in (None, INTACT)
    ]


def _between(desired: FleetEngine, actual: FleetEngine) -> Finding:
    """Says in what the engine that is there differs from the one that is desired."""
    differing = [
        one
        for one in compare(desired.key, actual.key)
        if one.layer is Layer.HARD or one.field in _ABOUT_CONTAINER
    ]
    names = {one.field for one in differing}
    kind = DriftKind.ENGINE
    if names and names <= _ABOUT_FLAGS:
        kind = DriftKind.BUILD_FLAGS
    elif names and names <= _ABOUT_CONTAINER:
        kind = DriftKind.CONTAINER
    fields = (
        FieldDrift("engine", desired.digest, actual.digest),
        *(FieldDrift(one.field, _text(one.a), _text(one.b)) for one in differing),
    )
    said = ", ".join(sorted(names)) or "content alone: the same key was built twice"
    return Finding(kind, _SEVERITY[kind], actual.digest, fields, f"differs in {said}")


def _unfit(
    decision: Decision, judgements: Sequence[Judgement], environment: Environment
) -> Finding:
    """Says why engines may not run in an environment, by the field that stands in the way."""
    first = decision.deciding[0]
    rule, said = first.rule.identifier, first.finding
    if decision.action is Effect.REVALIDATE and rule == "not-judged-there":
        return _elsewhere(judgements, environment)
    kind = DriftKind.UNQUALIFIED
    if decision.action is not Effect.REVALIDATE and rule != "failed-there":
        kind = DriftKind.CUDA if "cuda" in rule else kind
        kind = DriftKind.DRIVER if "driver" in rule and kind is not DriftKind.CUDA else kind
    found = _finding(kind, None, rule, said.expected, said.actual)
    grave = Severity.CRITICAL if rule == "failed-there" else found.severity
    reason = f"{decision.action}: {rule}, {said.actual}"
    return replace(found, severity=grave, reason=reason, environment=environment)


def _elsewhere(judgements: Sequence[Judgement], environment: Environment) -> Finding:
    """Says in what the nearest environment in which engines passed differs from this one."""
    passed = sorted(
        (
            (distance, at)
            for at, one in enumerate(judgements)
            if one.result is Result.PASS
            and (distance := _distance(one.environment, environment)) > 0
        ),
    )
    near = next((judgements[at] for _, at in passed if judgements[at].fault is None), None)
    if near is None:
        found = _finding(DriftKind.UNQUALIFIED, None, "verdict", "pass here", "never passed")
        return replace(found, environment=environment)
    fields = _differing(near.environment, environment)
    names = {one.field for one in fields}
    kind = DriftKind.UNQUALIFIED
    if names <= _FOLLOWS_DRIVER and "driver" in names:
        kind = DriftKind.DRIVER
    elif names <= _ABOUT_CUDA:
        kind = DriftKind.CUDA
    reason = f"passed on {near.environment}, and was not judged on {environment}"
    return Finding(kind, _SEVERITY[kind], None, fields, reason, environment=environment)


def _distance(passed: Environment, here: Environment) -> int:
    """Returns in how many fields two environments differ."""
    if not isinstance(passed, GpuEnvironment) or not isinstance(here, GpuEnvironment):
        return 1
    return sum(map(ne, vars(passed).values(), vars(here).values()))


def _differing(passed: Environment, here: Environment) -> tuple[FieldDrift, ...]:
    if not isinstance(passed, GpuEnvironment) or not isinstance(here, GpuEnvironment):
        return (FieldDrift("environment", str(passed), str(here)),)
    return tuple(
        FieldDrift(name, _text(value), _text(getattr(here, name)))
        for name, value in vars(passed).items()
        if value != getattr(here, name)
    )


def _finding(
    kind: DriftKind, engine: str | None, name: str, desired: object, actual: object
) -> Finding:
    fields = (FieldDrift(name, _text(desired), _text(actual)),)
    reason = f"{name}: {_text(actual) or 'none'}"
    return Finding(kind, _SEVERITY[kind], engine, fields, reason)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
