"""Every compatibility rule there is, whoever asks it, in one form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from enginekeeper.compatibility.check import RULES
from enginekeeper.compatibility.decision import VERDICT_RULES, place_rules
from enginekeeper.compatibility.facts import Facts
from enginekeeper.compatibility.placing import PlaceRule
from enginekeeper.compatibility.rules import AnyRule
from enginekeeper.errors import MissingError
from enginekeeper.specs.form import did_you_mean


@dataclass(frozen=True)
class ListedRule:
    """One rule as it is shown."""

    rule: str
    asked: str
    """`build`, of a variant before it is built; `place`, of an engine where it is to run;
    `verdict`, of the verdicts on an engine."""
    effect: str
    statement: str
    source: str
    needs: tuple[str, ...]
    """What must be known for it to be asked."""
    reached: bool = True
    """Whether anything but a case can make it fire today."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the rule as JSON values."""
        return {**asdict(self), "needs": list(self.needs)}


def listed_rules() -> tuple[ListedRule, ...]:
    """Returns all rules; one that builds and places share is there once for each."""
    return (
        *map(_of_build, RULES),
        *(_of_place(rule, "place") for rule in place_rules()),
        *(_of_place(rule, "verdict") for rule in VERDICT_RULES),
    )


def rules_named(identifier: str) -> tuple[ListedRule, ...]:
    """Returns the rules of an identifier; raises MissingError without any."""
    known = listed_rules()
    found = tuple(one for one in known if one.rule == identifier)
    if not found:
        names = sorted({one.rule for one in known})
        raise MissingError(
            "no such rule",
            actual=identifier[:200],
            expected=f"one of {len(names)}: enginekeeper rules list",
            remedy=did_you_mean(identifier, names),
        )
    return found


def _of_build(rule: AnyRule) -> ListedRule:
    needs = ("the source model",) if rule.needs is Facts else ()
    return ListedRule(
        rule.identifier, "build", str(rule.severity), rule.statement, rule.source, needs
    )


def _of_place(rule: PlaceRule, asked: str) -> ListedRule:
    return ListedRule(
        rule.identifier,
        asked,
        str(rule.effect),
        rule.statement,
        rule.source,
        rule.needs,
        rule.reached,
    )
