"""The one table from what went wrong to the process's exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import IntEnum

from enginekeeper import errors as app
from enginekeeper.toolchains.errors import StepDiskFullError
from registry import errors as reg
from registry.errors import DiagnosedError


class ExitCode(IntEnum):
    """The exit codes of every command; documented in README.md, tested against it."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INVALID_INPUT = 3
    NOT_FOUND = 4
    FAIL = 5
    INCONCLUSIVE = 6
    DRIFT = 7
    REFUSED = 8
    STEP_FAILED = 9
    UNAVAILABLE = 10
    INTEGRITY = 11


MEANING = {
    ExitCode.OK: "ok",
    ExitCode.INTERNAL: "internal error: a defect of Enginekeeper, please report it",
    ExitCode.USAGE: "usage",
    ExitCode.INVALID_INPUT: "invalid input",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.FAIL: "verdict fail, or gate closed",
    ExitCode.INCONCLUSIVE: "inconclusive",
    ExitCode.DRIFT: "drift found",
    ExitCode.REFUSED: "refused by a compatibility rule",
    ExitCode.STEP_FAILED: "build or step failed",
    ExitCode.UNAVAILABLE: "backend unavailable",
    ExitCode.INTEGRITY: "integrity or signature failure",
}

# the first family that fits counts: a subclass stands before its parent
_FAMILIES: tuple[tuple[type[DiagnosedError], ExitCode], ...] = (
    (app.InputError, ExitCode.INVALID_INPUT),
    (reg.InvalidRecordError, ExitCode.INVALID_INPUT),
    (app.MissingError, ExitCode.NOT_FOUND),
    (reg.RecordNotFoundError, ExitCode.NOT_FOUND),
    (reg.GateInconclusiveError, ExitCode.INCONCLUSIVE),
    (reg.GateRefusedError, ExitCode.REFUSED),
    (reg.GateClosedError, ExitCode.FAIL),
    (StepDiskFullError, ExitCode.UNAVAILABLE),
    (app.StepError, ExitCode.STEP_FAILED),
    (app.UnavailableError, ExitCode.UNAVAILABLE),
    (reg.StoreUnavailableError, ExitCode.UNAVAILABLE),
    (reg.ConflictError, ExitCode.UNAVAILABLE),
    (reg.IntegrityError, ExitCode.INTEGRITY),
)


GRAVEST_FIRST = (
    ExitCode.INTERNAL,
    ExitCode.INTEGRITY,
    ExitCode.STEP_FAILED,
    ExitCode.INVALID_INPUT,
    ExitCode.NOT_FOUND,
    ExitCode.UNAVAILABLE,
    ExitCode.REFUSED,
    ExitCode.FAIL,
    ExitCode.INCONCLUSIVE,
    ExitCode.OK,
)
"""What decides where one command has several endings.

Bytes that cannot be trusted come first, then what fails again until somebody changes something,
then what may pass by itself, then what was decided as it should be.
"""


def exit_code_of(family: type[DiagnosedError]) -> ExitCode:
    """Returns the exit code of an error's class; an unlisted family is an internal error."""
    return next(
        (code for listed, code in _FAMILIES if issubclass(family, listed)), ExitCode.INTERNAL
    )


def gravest(codes: Iterable[ExitCode]) -> ExitCode:
    """Returns the exit code of a command with several endings; without any, all is well."""
    return min(codes, key=GRAVEST_FIRST.index, default=ExitCode.OK)


def order_in_words() -> str:
    """Returns the codes with their meanings, the gravest first, for a command's help."""
    return "; ".join(f"{code} {MEANING[code].partition(':')[0]}" for code in GRAVEST_FIRST)


def report(error: DiagnosedError, *, as_json: bool) -> ExitCode:
    """Writes an error to stderr, as text or as one JSON line, and returns its exit code."""
    code = exit_code_of(type(error))
    if as_json:
        text = json.dumps({**error.as_dict(), "exit_code": int(code)}, ensure_ascii=False)
    else:
        text = f"error: {error}"
    sys.stderr.write(text + "\n")
    return code
