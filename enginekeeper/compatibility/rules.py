"""What a rule is: a statement about what cannot work, its source, and a function that finds it.

A rule's function is pure and total: it takes a variant and the facts that the rule needs, and
returns what it found, or None. It never reads a file, asks a machine or raises. A rule that needs
no facts of the model is checked before the model is there, and says the same afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from enginekeeper.compatibility.facts import TargetFacts
    from enginekeeper.specs.variants import Variant

Needed = TypeVar("Needed", bound="TargetFacts")


class Severity(StrEnum):
    """What a rule that fires does to a variant."""

    REFUSE = "refuse"
    """The variant cannot work; no step of it is run."""

    EXPORT_ONLY = "export_only"
    """The checkpoint can be made and audited; no engine of it can be built and scored here."""

    WARN = "warn"
    """The variant can work, but probably not as meant."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Why a rule fired on one variant: the values that decided it."""

    actual: str
    expected: str
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[Needed]):
    """A statement that holds for every variant, and what says so."""

    identifier: str
    """Short name that never changes, such as `fp8-needs-ada`."""

    statement: str
    """What is true, in one sentence, without reference to a particular variant."""

    source: str
    """Who says so: a document, a file with its commit, or a measurement."""

    severity: Severity
    needs: type[Needed]
    """The facts without which it cannot be checked: of the target alone, or of the model too."""

    predicate: Callable[[Variant, Needed], Finding | None]

    fact: str | None = None
    """The fact of a release that it goes by; where nobody has verified it, it warns at most."""


AnyRule: TypeAlias = Rule[Any]
"""A rule, whatever it needs; `check` applies it only to facts that suffice."""


@dataclass(frozen=True, kw_only=True)
class RuleHit:
    """A rule that fired on a variant."""

    rule: str
    severity: Severity
    statement: str
    source: str
    actual: str
    expected: str
    remedy: str | None

    def as_dict(self) -> dict[str, str | None]:
        """Returns the hit as JSON values."""
        return {
            "rule": self.rule,
            "severity": str(self.severity),
            "statement": self.statement,
            "found": self.actual,
            "expected": self.expected,
            "next": self.remedy,
            "source": self.source,
        }
