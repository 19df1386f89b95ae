"""Reads the options out of what a Python tool prints for `--help`.

Rules:

- an option's entry begins in column 3; what is deeper belongs to it;
- `{a,b}` are its choices, no metavar is a switch, `X [X ...]` takes several;
- `(default: x)` at the end is what it takes without it; types are not printed and so not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from enginekeeper.errors import InputError

_ENTRY = re.compile(r"^  (--?\S.*)$")
_OPTION = re.compile(r"--([A-Za-z0-9_-]+)")
_CHOICES = re.compile(r"\{([^}]*)\}")
_DEFAULT = re.compile(r"\(default: (.*)\)\s*$", re.DOTALL)


@dataclass(frozen=True)
class HelpOption:
    """One option as the tool describes itself."""

    name: str
    aliases: tuple[str, ...]
    choices: tuple[str, ...]
    is_switch: bool
    is_list: bool
    default: str | None
    """As it is printed; None where the tool prints none, and where it prints None."""


def options_of_help(text: str, where: str) -> dict[str, HelpOption]:
    """Returns the options by name; raises InputError for a text that is no such help."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        if match := _ENTRY.match(line):
            entries.append([match[1]])
        elif entries and line.startswith("   ") and line.strip():
            entries[-1].append(line.strip())
        else:
            entries.append([""])  # a heading, or the usage: what is indented below is not an entry
    found = [_option(entry) for entry in entries if _OPTION.search(entry[0])]
    options = {option.name: option for option in found if option.name != "help"}
    if not options:
        raise InputError(
            "holds no options",
            where=where,
            expected="what the tool prints for --help, whole",
            remedy="in the container: trtllm-build --help > help.txt",
        )
    return options


def _option(entry: list[str]) -> HelpOption:
    invocation, _, beside = entry[0].partition("  ")
    text = " ".join([beside.strip(), *entry[1:]])
    names = _OPTION.findall(invocation)
    choices = _CHOICES.search(invocation)
    taken = re.sub(r"--?[A-Za-z0-9_-]+,?", "", invocation).strip()
    default = _DEFAULT.search(text)
    said = None if default is None else " ".join(default[1].split())
    return HelpOption(
        name=names[0],
        aliases=tuple(names[1:]),
        choices=tuple(choices[1].split(",")) if choices else (),
        is_switch=not taken,
        is_list="..." in taken,
        default=None if said == "None" else said,
    )
