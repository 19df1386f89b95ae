"""Reads the options out of what a Python tool prints for `--help`.

Rules:

- an option's entry begins in column 3; what is deeper belongs to it;
- `{a,b}` are its choices, no metavar is a switch, `X [X ...]` takes several;
- `(default: x)` at the end is what it takes without it; types are not printed and so not known;
- every option of the usage has an entry: a help that was cut short would make those of the rest
  options that the release lacks;
- where the tool says its release, it is the one that is asked about.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from enginekeeper.errors import InputError

_ENTRY = re.compile(r"^  (--?\S.*)$")
_OPTION = re.compile(r"--([A-Za-z0-9_-]+)")
_CHOICES = re.compile(r"\{([^}]*)\}")
_USAGE = re.compile(r"^usage: .*?(?=^\s*$)", re.MULTILINE | re.DOTALL)
_RELEASE = re.compile(r"\[TensorRT-LLM\] TensorRT[ -]LLM version: (\S+)")
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


def require_release(text: str, version: str, where: str) -> None:
    """Raises InputError for the output of another release, where the tool said which it is."""
    said = set(_RELEASE.findall(text))
    if said <= {version}:
        return
    raise InputError(
        "is the help of another release",
        where=where,
        actual=", ".join(sorted(said)),
        expected=version,
        remedy=f"make it in the container of {version}: trtllm-build --help > help.txt",
    )


def options_of_help(text: str, where: str) -> dict[str, HelpOption]:
    """Returns the options by name; raises InputError for a text that is no such help, or not all.

    It is all if each option of the usage is described below it, and the last one to its end: a
    bracket that is not closed there is a choice, or a default, that was cut.
    """
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
    usage = _USAGE.search(text)
    lost = set(_OPTION.findall(usage[0] if usage else "")) - options.keys() - {"help"}
    last = next(" ".join(one) for one in reversed(entries) if _OPTION.search(one[0]))
    if any(last.count(opens) != last.count(closes) for opens, closes in ("()", "{}", "[]")):
        lost.add(f"the end of {found[-1].name}")
    if usage is None or lost:
        raise InputError(
            "is not the whole help",
            where=where,
            actual="no usage in it" if usage is None else f"ends before {', '.join(sorted(lost))}",
            expected="what the tool prints for --help, from its usage to its last option",
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
