"""Cases: questions to the rules with the answer expected, and whether the rules give it.

The cases that are shipped are `data/cases.json`; anybody can write more in the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from enginekeeper.compatibility.decision import Decision, Judgement, decide
from enginekeeper.compatibility.places import HardwareLevel, Place, Portability
from enginekeeper.compatibility.placing import Effect
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from registry.environments import DriverScope, environment_from_dict
from registry.errors import InvalidRecordError
from registry.keys import EngineKey
from registry.types import Result

SHIPPED = Path(__file__).with_name("data") / "cases.json"


@dataclass(frozen=True)
class RuleCase:
    """One question, and the answer that its source gives."""

    name: str
    key: EngineKey
    judgements: tuple[Judgement, ...]
    place: Place
    scope: DriverScope
    portability: Portability
    expected: Effect
    rules: frozenset[str]
    """Rules that must be among those that fire."""
    source: str

    def decision(self) -> Decision:
        """Returns what the rules say now."""
        return decide(
            self.key, self.judgements, self.place, scope=self.scope, portability=self.portability
        )

    def fault(self) -> str | None:
        """Says how the rules differ from what is expected; None if they do not."""
        decision = self.decision()
        fired = [one.rule.identifier for one in decision.fired]
        if decision.action is not self.expected:
            return f"{decision.action} by {', '.join(fired)}, expected {self.expected}"
        missing = sorted(self.rules.difference(fired))
        return f"{', '.join(missing)} did not fire; {', '.join(fired)} did" if missing else None


def read_cases(path: Path = SHIPPED) -> tuple[RuleCase, ...]:
    """Reads a file of cases; raises InputError that names the case that cannot be read."""
    document = read_json_object(path)
    cases = document.get("cases")
    if not isinstance(cases, list):
        raise InputError("there are no cases", where=str(path), expected='a list named "cases"')
    return tuple(_case(document, row, f"{path}: case {at}") for at, row in enumerate(cases, 1))


def _case(document: Mapping[str, Any], row: Any, where: str) -> RuleCase:  # noqa: ANN401 - any JSON value
    try:
        base, place = _place(document, row["place"])
        return RuleCase(
            name=str(row["name"]),
            key=EngineKey.of(**_changed(document["engines"], row["engine"])),
            judgements=tuple(_judgement(base, one) for one in row["judged"]),
            place=place,
            scope=DriverScope(row.get("scope", DriverScope.EXACT)),
            portability=_portability(row.get("portability", {})),
            expected=Effect(row["expect"]),
            rules=frozenset(row["rules"]),
            source=str(row["source"]),
        )
    except InvalidRecordError as error:
        raise InputError(error.what, where=where, actual=error.actual) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"not a case: {error!r}", where=where, expected=f"the form of {SHIPPED.name}"
        ) from error


def _changed(bases: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(change)
    return {**bases[fields.pop("base")], **fields}


def _place(
    document: Mapping[str, Any], change: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Place]:
    """Returns the environment of the place's base, and the place."""
    fields = _changed(document["places"], change)
    base = document["places"][change["base"]]["environment"]
    fields["environment"] = _environment(base, change.get("environment", {}))
    if "on" in fields:
        fields["on"] = date.fromisoformat(fields["on"])
    return base, Place(**fields)


def _environment(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a union
    return environment_from_dict({**base, **changes})


def _judgement(base: Mapping[str, Any], said: Any) -> Judgement:  # noqa: ANN401 - any JSON value
    if isinstance(said, str):
        return Judgement(_environment(base, {}), Result(said))
    return Judgement(
        _environment(base, said.get("environment", {})), Result(said["result"]), said.get("fault")
    )


def _portability(said: Mapping[str, Any]) -> Portability:
    hardware = HardwareLevel(said.get("hardware", HardwareLevel.NONE))
    return Portability(hardware, versions=bool(said.get("versions", False)))
