"""From options to the command line of `trtllm-build`: a list of arguments, never a shell string.

Rules:

- an option that the release is known to lack is refused; one that nobody has looked for passes,
  and the plan has warned of it;
- a value has the kind that the table of options says, and one of its choices;
- what is not given is not on the command line: the release's own default holds.

Example:
    arguments("1.2.1", {"max_batch_size": 8, "context_fmha": True, "strip_plan": True})
    # ("--max_batch_size=8", "--context_fmha=enable", "--strip_plan")
"""

from __future__ import annotations

from collections.abc import Mapping

from enginekeeper.errors import InputError
from enginekeeper.specs.build_flags import (
    BuildFlag,
    FlagKind,
    FlagValue,
    Presence,
    build_flags,
)
from enginekeeper.specs.form import did_you_mean


def arguments(version: str, settings: Mapping[str, FlagValue]) -> tuple[str, ...]:
    """Returns the arguments for a release, in the order given; raises InputError."""
    return tuple(word for name, value in settings.items() for word in _option(version, name, value))


def _option(version: str, name: str, value: FlagValue) -> tuple[str, ...]:
    flag = build_flags().get(name)
    if flag is None:
        raise InputError(
            f"trtllm-build has no option --{name}",
            remedy=did_you_mean(name, build_flags()),
        )
    if flag.presence(version) is Presence.ABSENT:
        raise InputError(
            f"trtllm-build of TensorRT-LLM {version} has no option --{name}",
            expected=f"a release that has it: {', '.join(flag.has)}",
        )
    if not _fits(flag, value):
        raise InputError(
            f"--{name} does not take this value",
            actual=repr(value)[:200],
            expected=flag.takes or "true or false",
        )
    return _words(flag, value)


def _fits(flag: BuildFlag, value: FlagValue) -> bool:
    match flag.kind:
        case FlagKind.INT:
            return type(value) is int
        case FlagKind.TOGGLE | FlagKind.SWITCH:
            return isinstance(value, bool)
        case FlagKind.CHOICE:
            return value in flag.choices
        case FlagKind.TEXT | FlagKind.PATH:
            return isinstance(value, str) and _plain(value)
        case FlagKind.TEXTS:
            # Several words stand apart on the command line: none may look like an option.
            return (
                isinstance(value, tuple)
                and bool(value)
                and all(_plain(one) and not one.startswith("-") for one in value)
            )


def _plain(text: str) -> bool:
    return bool(text) and "\0" not in text


def _words(flag: BuildFlag, value: FlagValue) -> tuple[str, ...]:
    option = f"--{flag.name}"
    if flag.kind is FlagKind.SWITCH:
        return (option,) if value else ()
    if flag.kind is FlagKind.TOGGLE:
        return (f"{option}={'enable' if value else 'disable'}",)
    if isinstance(value, tuple):
        return (option, *value)
    return (f"{option}={value}",)
