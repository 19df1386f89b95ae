"""Which drift waivers excuse: what the gate would let run by them, and nothing else.

Rules:

- a waiver excuses an engine where it names every rule of the gate that stands against it there;
- where the gate is asked about signatures, and where what one verdict says is waived, it is asked
  itself: a waiver may be bound to a verdict that is not the last any more;
- what no environment is about (an engine that is revoked, bytes that changed) is never excused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from enginekeeper.compatibility.decision import blocking, latest_there
from enginekeeper.fleet.profiles import Profile
from enginekeeper.orchestration.drift import Finding, KnownEngine
from registry.digests import Digest
from registry.environments import DriverScope, Environment, covers
from registry.service import Registry
from registry.types import Result, Waiver
from registry.waivers import ABOUT_VERDICT

_INCOMPATIBLE = "incompatible"
_BY_RESULT = {
    Result.PASS: (),
    Result.FAIL: ("verdict-failed",),
    Result.INCONCLUSIVE: ("verdict-inconclusive",),
}


@dataclass(frozen=True)
class _Waived:
    """As much of an engine as a waiver is held against."""

    digest: Digest
    simulated: bool


@dataclass
class Waivers:
    """The waivers in force on the engines of a fleet, read when the first is asked for."""

    registry: Registry
    engines: Mapping[str, KnownEngine]
    verified: bool
    """Whether the gate is asked whenever a waiver could excuse."""
    _granted: dict[str, list[Waiver]] | None = None
    _said: dict[tuple[str, Environment, bool], str | None] = field(default_factory=dict)

    def excuse(self, one: Finding, profile: Profile) -> str | None:
        """Returns whose waiver lets an engine run where a finding is; None where none does."""
        if one.engine is None or one.environment is None or not self.on(one.engine):
            return None
        asked = (one.engine, one.environment, profile.simulated)
        if asked not in self._said:
            self._said[asked] = self._excuse(*asked)
        return self._said[asked]

    def on(self, engine: str) -> list[Waiver]:
        """Returns the waivers on an engine, wherever they count."""
        if self._granted is None:
            self._granted = self._in_force()
        return self._granted.get(engine, [])

    def _excuse(self, engine: str, where: Environment, simulated: bool) -> str | None:  # noqa: FBT001 - of a node
        scope = self.registry.driver_scope
        here = [
            one
            for one in self.on(engine)
            if one.environment is None or covers(one.environment, where, scope)
        ]
        waived = {rule for one in here for rule in one.rules}
        known = self.engines.get(engine)
        if known is None or not waived.issuperset(
            stands := set(_verdict_rules(known, where, scope))
        ):
            return None
        blocked = _INCOMPATIBLE not in waived and bool(blocking(known.engine.key, where))
        if blocked or not (stands or _INCOMPATIBLE in waived):
            return None
        if (self.verified or stands & ABOUT_VERDICT) and not self._opens(engine, where, simulated):
            return None
        counted = [one for one in here if stands & {*one.rules} or _INCOMPATIBLE in one.rules]
        return "; ".join(f"waived: {one.reason} ({one.granted_by})" for one in counted)

    def _opens(self, engine: str, where: Environment, simulated: bool) -> bool:  # noqa: FBT001 - of a node
        digest = Digest.parse(engine)
        return self.registry.gate(digest, where, simulated_node=simulated).is_open

    def _in_force(self) -> dict[str, list[Waiver]]:
        with self.registry.catalogue.read() as view:
            granted = [one for one in view.waivers() if str(one.engine) in self.engines]
        named = {one.engine: self.engines[str(one.engine)].simulated for one in granted}
        found = self.registry.waivers_in_force([_Waived(*one) for one in named.items()], granted)
        return {str(digest): waivers for digest, waivers in found.items() if waivers}


def _verdict_rules(known: KnownEngine, where: Environment, scope: DriverScope) -> Iterator[str]:
    """Yields the rules of the gate by which the verdicts on an engine stand against it."""
    said = known.engine.judgements
    here = latest_there(said, where, scope)
    if here is None:
        yield "not-qualified-here" if said else "never-judged"
    elif here.fault is not None:
        yield "verdict-not-attested"
    else:
        yield from _BY_RESULT[here.result]
