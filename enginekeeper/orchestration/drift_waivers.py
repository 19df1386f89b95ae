"""Which drift waivers excuse: what the gate would let run by them, and nothing else.

Rules:

- a waiver excuses an engine where it names every rule of the gate that stands against it there;
- where the gate is asked about signatures, and where what one verdict says is waived, it is asked
  itself: a waiver may be bound to a verdict that is not the last any more;
- what the rules about a host's OS and CPU forbid is excused by a waiver of `incompatible`, as the
  gate on that node is opened by it, and of nothing else;
- what no environment is about (an engine that is revoked, bytes that changed) is never excused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from enginekeeper.compatibility.decision import blocking_at, latest_there
from enginekeeper.compatibility.places import Place
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
    """The waivers on the engines of a fleet, read when the first is asked for.

    Signatures are asked of those alone that could excuse something.
    """

    registry: Registry
    engines: Mapping[str, KnownEngine]
    verified: bool
    """Whether the gate is asked whenever a waiver could excuse."""
    _granted: dict[str, list[Waiver]] | None = None
    _said: dict[tuple[str, Environment, bool, str, str], str | None] = field(default_factory=dict)

    def excuse(self, one: Finding, profile: Profile) -> str | None:
        """Returns whose waiver lets an engine run where a finding is; None where none does."""
        known = self.engines.get(one.engine or "")
        if known is None or one.environment is None or not self._on(known.engine.digest):
            return None
        os, cpu, simulated = profile.os, profile.cpu_architecture, profile.simulated
        asked = (known.engine.digest, one.environment, simulated, os, cpu)
        if asked not in self._said:
            place = Place(one.environment, os=os, cpu_architecture=cpu)
            self._said[asked] = self._excuse(known, place, simulated=simulated)
        return self._said[asked]

    def _on(self, engine: str) -> list[Waiver]:
        """Returns the waivers on an engine, wherever they count; ended ones too."""
        if self._granted is None:
            self._granted = {}
            with self.registry.catalogue.read() as view:
                for one in view.waivers():
                    self._granted.setdefault(str(one.engine), []).append(one)
        return self._granted.get(engine, [])

    def _excuse(self, known: KnownEngine, place: Place, *, simulated: bool) -> str | None:
        where, scope = place.environment, self.registry.driver_scope
        here = [
            one
            for one in self._on(known.engine.digest)
            if one.environment is None or covers(one.environment, where, scope)
        ]
        stands = set(_verdict_rules(known, where, scope))
        if not _are_enough(here, stands, known, place):
            return None
        engine = _Waived(Digest.parse(known.engine.digest), known.simulated)
        here = self.registry.waivers_in_force([engine], here)[engine.digest]
        if not _are_enough(here, stands, known, place):
            return None
        if self.verified or stands & ABOUT_VERDICT:
            decision = self.registry.gate(engine.digest, where, simulated_node=simulated)
            if not decision.is_open:
                return None
        counted = [one for one in here if {*stands, _INCOMPATIBLE} & {*one.rules}]
        return "; ".join(f"waived: {one.reason} ({one.granted_by})" for one in counted)


def _are_enough(
    waivers: Sequence[Waiver], stands: set[str], known: KnownEngine, place: Place
) -> bool:
    """Says whether waivers name all rules of the gate that stand against an engine somewhere."""
    waived = {rule for one in waivers for rule in one.rules}
    if not waived.issuperset(stands):
        return False
    if _INCOMPATIBLE in waived:
        return True
    return bool(stands) and not blocking_at(known.engine.key, place)


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
