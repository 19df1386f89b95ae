"""Compares what a release says of itself (`trtllm-build --help`) with the table of its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from enginekeeper.specs.build_flags import BuildFlag, FlagKind, Presence, build_flags
from enginekeeper.specs.help_text import HelpOption

_TOGGLE = frozenset({"enable", "disable"})


@dataclass(frozen=True)
class FlagDrift:
    """One thing that the table and the tool say differently, or that only the tool knows."""

    option: str
    what: str
    table: str
    tool: str
    settles: bool = False
    """Whether it answers what nobody had verified, and so contradicts nothing."""

    def as_dict(self) -> dict[str, object]:
        """Returns the difference as JSON values."""
        return {
            "option": self.option,
            "what": self.what,
            "table": self.table,
            "tool": self.tool,
            "settles": self.settles,
        }


def flag_drift(version: str, said: Mapping[str, HelpOption]) -> tuple[FlagDrift, ...]:
    """Returns every difference for a release; empty if the table is what the tool says."""
    known = build_flags()
    drift = [one for flag in known.values() for one in _of_flag(flag, version, said)]
    drift += [
        FlagDrift(name, "option", "not in the table", "there") for name in said if name not in known
    ]
    return tuple(drift)


def _of_flag(flag: BuildFlag, version: str, said: Mapping[str, HelpOption]) -> Iterator[FlagDrift]:
    presence, option = flag.presence(version), said.get(flag.name)
    there = "there" if option is not None else "not there"
    expected = {Presence.PRESENT: "there", Presence.ABSENT: "not there"}.get(presence)
    if expected is None:
        yield FlagDrift(flag.name, "option", str(presence), there, settles=True)
    elif expected != there:
        yield FlagDrift(flag.name, "option", expected, there)
    if option is not None:
        yield from _of_form(flag, version, option)


def _of_form(flag: BuildFlag, version: str, option: HelpOption) -> Iterator[FlagDrift]:
    if set(flag.aliases) != set(option.aliases):
        yield FlagDrift(flag.name, "aliases", _listed(flag.aliases), _listed(option.aliases))
    if (flag.kind is FlagKind.SWITCH) is not option.is_switch:
        yield FlagDrift(flag.name, "takes a value", _yes(flag.takes), _yes(not option.is_switch))
    if (flag.kind is FlagKind.TEXTS) is not option.is_list:
        several = flag.kind is FlagKind.TEXTS
        yield FlagDrift(flag.name, "takes several", _yes(several), _yes(option.is_list))
    choices = _TOGGLE if flag.kind is FlagKind.TOGGLE else set(flag.choices)
    # An enum's values, and those of a list, are not the option's own choices.
    if option.choices and not option.is_list and choices != set(option.choices):
        open_list = not choices  # the table does not say which words there are
        said = _listed(option.choices)
        yield FlagDrift(flag.name, "choices", _listed(choices), said, settles=open_list)
    default = _default(flag, version)
    if default != option.default:
        yield FlagDrift(flag.name, "default", str(default), str(option.default))


def _default(flag: BuildFlag, version: str) -> str | None:
    default = flag.default_in(version)
    if default is None:
        return None
    if flag.kind is FlagKind.TOGGLE:
        return "enable" if default else "disable"
    return str(default)


def _listed(words: object) -> str:
    return ", ".join(sorted(words)) if isinstance(words, (set, frozenset, tuple)) else str(words)


def _yes(value: object) -> str:
    return "yes" if value else "no"
