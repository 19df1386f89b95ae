"""The options of `trtllm-build`: what each takes, and which releases have it.

The table is `data/trtllm_build_flags.json`. For every release an option is there, is not there,
or nobody has looked: `unverified` is an answer of its own and is never taken for one of the others.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.errors import InputError
from enginekeeper.specs.form import FORM
from enginekeeper.tables import read_table

TABLE = Path(__file__).with_name("data") / "trtllm_build_flags.json"

FlagValue: TypeAlias = "bool | int | str | tuple[str, ...]"
"""What an option can be set to."""


class FlagKind(StrEnum):
    """What an option takes on the command line."""

    INT = "int"
    TEXT = "text"
    PATH = "path"
    TEXTS = "texts"
    """One text or more."""

    CHOICE = "choice"
    TOGGLE = "toggle"
    """`enable` or `disable`; true and false here."""

    SWITCH = "switch"
    """Takes nothing: it is there or not."""


class Presence(StrEnum):
    """What is known of an option in one release."""

    PRESENT = "present"
    ABSENT = "absent"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, kw_only=True, config=FORM)
class BuildFlag:
    """One option of `trtllm-build`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    kind: FlagKind
    default: bool | int | str | None
    """What the tool takes without it; None where that depends on the model, or is nothing."""

    set_by: Literal["spec", "limits", "builder", "never"]
    """Who sets it: the spec's `build`, its `limits`, the builder itself, or nobody here."""

    has: tuple[str, ...]
    """Releases that have it."""

    source: str
    """Key of the table's list of sources."""

    defaults: dict[str, bool | int | str] = field(default_factory=dict)
    """The default of releases in which it is another one."""

    lacks: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    note: str | None = None

    def presence(self, version: str) -> Presence:
        """Returns what is known of the option in a release of TensorRT-LLM, such as `1.2.1`."""
        if version in self.has:
            return Presence.PRESENT
        return Presence.ABSENT if version in self.lacks else Presence.UNVERIFIED

    def default_in(self, version: str) -> bool | int | str | None:
        """Returns what a release takes without it; None as for `default`."""
        return self.defaults.get(version, self.default)

    @property
    def takes(self) -> str:
        """What a person has to write behind it."""
        match self.kind:
            case FlagKind.CHOICE:
                return "|".join(self.choices)
            case FlagKind.TOGGLE:
                return "enable|disable"
            case FlagKind.SWITCH:
                return ""
            case FlagKind.TEXTS:
                return "TEXT..."
            case _:
                return self.kind.upper()


@dataclass(frozen=True, kw_only=True, config=FORM)
class _Table:
    schema: Literal[1]
    tool: Literal["trtllm-build"]
    sources: dict[str, str]
    flags: tuple[BuildFlag, ...] = field(default=())


@cache
def build_flags() -> dict[str, BuildFlag]:
    """Returns the table by name, in its own order; raises InputError if it contradicts itself."""
    flags = _read().flags
    for flag in flags:
        if fault := _fault(flag):
            raise InputError(f"{flag.name}: {fault}", where=str(TABLE))
    if len({flag.name for flag in flags}) != len(flags):
        raise InputError("an option is there twice", where=str(TABLE))
    return {flag.name: flag for flag in flags}


def flag_source(flag: BuildFlag) -> str:
    """Returns who says what the table says of an option."""
    return _read().sources[flag.source]


@cache
def _read() -> _Table:
    return read_table(TABLE, TypeAdapter(_Table))


def _fault(flag: BuildFlag) -> str | None:
    if flag.source not in _read().sources:
        return f"no source is called {flag.source}"
    if set(flag.has) & set(flag.lacks):
        return "a release both has and lacks it"
    if bool(flag.choices) is not (flag.kind is FlagKind.CHOICE):
        return "choices are for the kind choice, and only for it"
    if not set(flag.defaults) <= set(flag.has):
        return "a default of a release that does not have it"
    given = [one for one in (flag.default, *flag.defaults.values()) if one is not None]
    return None if all(_fits(flag, one) for one in given) else "default of another kind"


def _fits(flag: BuildFlag, default: FlagValue) -> bool:
    fits: dict[FlagKind, bool] = {
        FlagKind.INT: type(default) is int,
        FlagKind.TOGGLE: isinstance(default, bool),
        FlagKind.SWITCH: default is False,
        FlagKind.CHOICE: default in flag.choices,
        FlagKind.TEXTS: False,
    }
    return fits.get(flag.kind, isinstance(default, str))
