"""What a rule about an engine in a place is: a statement, its source, and a pure function.

A rule's function is total: it returns what it found, or None, and never raises, whatever text
the key and the place hold. A rule whose `needs` names something of the place that is not known
is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from enginekeeper.compatibility.places import ASKED_HERE, Case, Place
from enginekeeper.compatibility.rules import Finding


class Effect(StrEnum):
    """What a rule that fires lets be done with the engine, from the best to the worst."""

    NOTE = "note"
    """Nothing changes; a person should know."""

    REUSE = "reuse"
    """The engine runs as it is."""

    REVALIDATE = "revalidate"
    """The engine must be judged there first; it need not be built."""

    REBUILD = "rebuild"
    """These bytes cannot work there; a build for that place can."""

    REFUSE = "refuse"
    """Nothing that is built by this recipe and toolchain works there, or it failed there."""


@dataclass(frozen=True, kw_only=True)
class PlaceRule:
    """A statement that holds for every engine in every place, and what says so."""

    identifier: str
    statement: str
    source: str
    effect: Effect
    predicate: Callable[[Case], Finding | None]
    needs: tuple[str, ...] = ()
    """Fields of the place without which it cannot be asked."""
    loosened: bool = False
    """Whether it is about plans that were built to move, which no builder here makes."""

    @property
    def reached(self) -> bool:
        """Says whether a wave or the gate can ask it today, and not a case alone."""
        return not self.loosened and ASKED_HERE.issuperset(self.needs)


@dataclass(frozen=True)
class Fired:
    """A rule that fired, and the values that made it."""

    rule: PlaceRule
    finding: Finding

    def __str__(self) -> str:
        """Returns one line for a person."""
        found = f"{self.rule.statement} (found {self.finding.actual}"
        return f"{found}, expected {self.finding.expected})"

    def as_dict(self) -> dict[str, str | None]:
        """Returns the hit as JSON values."""
        return {
            "rule": self.rule.identifier,
            "effect": str(self.rule.effect),
            "statement": self.rule.statement,
            "found": self.finding.actual,
            "expected": self.finding.expected,
            "next": self.finding.remedy,
            "source": self.rule.source,
        }


def fired(rules: Sequence[PlaceRule], case: Case) -> Iterator[Fired]:
    """Yields every rule that fires, in the rules' order."""
    for rule in rules:
        if not _missing(rule, case.place) and (finding := rule.predicate(case)) is not None:
            yield Fired(rule, finding)


def unasked(rules: Sequence[PlaceRule], place: Place) -> tuple[str, ...]:
    """Returns the identifiers of the rules that need more than is known of a place."""
    return tuple(rule.identifier for rule in rules if _missing(rule, place))


def _missing(rule: PlaceRule, place: Place) -> bool:
    return any(getattr(place, name) is None for name in rule.needs)
