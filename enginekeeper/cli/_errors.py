"""The one table from what went wrong to the process's exit code."""

from __future__ import annotations

import json
import sys
from enum import IntEnum

from enginekeeper import errors as app
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
    (app.RefusedError, ExitCode.REFUSED),
    (app.StepError, ExitCode.STEP_FAILED),
    (app.UnavailableError, ExitCode.UNAVAILABLE),
    (reg.StoreUnavailableError, ExitCode.UNAVAILABLE),
    (reg.ConflictError, ExitCode.UNAVAILABLE),
    (reg.IntegrityError, ExitCode.INTEGRITY),
)


def exit_code_of(error: DiagnosedError) -> ExitCode:
    """Returns the exit code of an error's family; an unlisted family is an internal error."""
    for family, code in _FAMILIES:
        if isinstance(error, family):
            return code
    return ExitCode.INTERNAL


def report(error: DiagnosedError, *, as_json: bool) -> ExitCode:
    """Writes an error to stderr, as text or as one JSON line, and returns its exit code."""
    code = exit_code_of(error)
    if as_json:
        text = json.dumps({**error.as_dict(), "exit_code": int(code)}, ensure_ascii=False)
    else:
        text = f"error: {error}"
    sys.stderr.write(text + "\n")
    return code
