"""Writes the table of options anew from what a release says of itself (`trtllm-build --help`).

Rules:

- an option that the help has is in the release, one that it lacks is not: nothing stays unverified;
- an option that nobody knew is added, with the kind that can be told from its help, and set by
  nobody (`never`) until a person has looked at it;
- a default or a choice that differs is left as it is: the table has one for all releases, and which
  of them is right is for a person to say. `flag_drift` tells them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.specs.build_flags import TABLE
from enginekeeper.specs.help_text import HelpOption


def settled_table(version: str, said: Mapping[str, HelpOption]) -> str:
    """Returns the text of the shipped table with what the help of a release settles."""
    table = read_json_object(TABLE)
    source = f"help-{version}"
    flags = [_settled(row, version, present=row["name"] in said) for row in table["flags"]]
    known = {row["name"] for row in flags}
    new = [_new(option, version, source) for name, option in said.items() if name not in known]
    sources = dict(table["sources"])
    if new:
        sources[source] = f"trtllm-build --help of {version}, as its release prints it"
    return _text({**table, "sources": sources, "flags": [*flags, *new]})


def _settled(row: Mapping[str, Any], version: str, *, present: bool) -> dict[str, Any]:
    has, lacks = (set(row.get(name, ())) for name in ("has", "lacks"))
    (has if present else lacks).add(version)
    (lacks if present else has).discard(version)
    settled = {**row, "has": _in_order(has), "lacks": _in_order(lacks)}
    return {name: value for name, value in settled.items() if name != "lacks" or value}


def _new(option: HelpOption, version: str, source: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": option.name, "kind": _kind(option), "default": _default(option)}
    row |= {"set_by": "never", "has": [version], "source": source}
    if row["kind"] == "choice":
        row["choices"] = list(option.choices)
    if option.aliases:
        row["aliases"] = list(option.aliases)
    return {**row, "note": "found by its help alone: nobody has looked at what it does"}


def _kind(option: HelpOption) -> str:
    if option.is_switch:
        return "switch"
    if option.is_list:
        return "texts"
    if set(option.choices) == {"enable", "disable"}:
        return "toggle"
    if option.choices:
        return "choice"
    return "int" if (option.default or "").lstrip("-").isdigit() else "text"


def _default(option: HelpOption) -> bool | int | str | None:
    match _kind(option):
        case "switch":
            return False
        case "texts":
            return None
        case "toggle":
            return None if option.default is None else option.default == "enable"
        case "int":
            return int(option.default or 0)
        case "choice" if option.default not in option.choices:
            return None
    return option.default


def _in_order(versions: set[str]) -> list[str]:
    """Returns releases the oldest first; a candidate before its release."""

    def order(version: str) -> tuple[list[int], int]:
        numbers, _, candidate = version.partition("rc")
        return [int(part) for part in numbers.split(".")], int(candidate or 10**9)

    return sorted(versions, key=order)


def _text(table: Mapping[str, Any]) -> str:
    """Lays the table out as it is kept: an option a line, so that a difference is one, too."""
    head = {name: value for name, value in table.items() if name != "flags"}
    rows = ",\n".join(f"  {json.dumps(row)}" for row in table["flags"])
    return f'{json.dumps(head, indent=1)[:-2]},\n "flags": [\n{rows}\n ]\n}}\n'
