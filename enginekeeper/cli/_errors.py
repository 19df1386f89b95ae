"""The one table from what went wrong to the process's exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping
from enum import IntEnum

import click

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
    ExitCode.DRIFT,
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


def exit_code_of_result(result: str) -> ExitCode:
    """Returns the exit code of what was judged: pass, fail, or anything between."""
    return {"pass": ExitCode.OK, "fail": ExitCode.FAIL}.get(result, ExitCode.INCONCLUSIVE)


def gravest(codes: Iterable[ExitCode]) -> ExitCode:
    """Returns the exit code of a command with several endings; without any, all is well."""
    return min(codes, key=GRAVEST_FIRST.index, default=ExitCode.OK)


def order_in_words() -> str:
    """Returns the codes with their meanings, the gravest first, for a command's help."""
    return "; ".join(f"{code} {MEANING[code].partition(':')[0]}" for code in GRAVEST_FIRST)


_OF_THE_HOST = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE})


def of_the_host(error: Exception) -> app.UnavailableError | None:
    """Returns what a file means that this user may not use, or its disk does not give.

    None for whatever else nobody expected: that is a defect.
    """
    if not isinstance(error, OSError) or error.errno not in _OF_THE_HOST or error.filename is None:
        return None
    return app.UnavailableError(
        "a file cannot be used, and nobody can tell what it says",
        where=os.fsdecode(error.filename), actual=error.strerror,
        expected=f"one that user {os.geteuid()} may use, on a disk that answers",
        remedy="see who owns it and with which mode, and what `dmesg` says of the disk",
    )  # fmt: skip


def report(error: DiagnosedError, *, as_json: bool) -> ExitCode:
    """Writes an error to stderr, as text or as one JSON line, and returns its exit code."""
    code = exit_code_of(type(error))
    if as_json:
        write_json_line({**error.as_dict(), "exit_code": int(code)})
    else:
        sys.stderr.write(f"error: {error}\n")
    return code


def report_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Writes what is wrong with a command line, as `report` does, and returns its exit code."""
    if not as_json:
        error.show()
        return error.exit_code
    context = error.ctx if isinstance(error, click.UsageError) else None
    write_json_line({
        "error": "UsageError",
        "what": error.format_message(),
        "where": None if context is None else context.command_path,
        "found": None,
        "expected": None if context is None else context.get_usage().partition(" ")[2],
        "next": None if context is None else f"{context.command_path} --help",
        "exit_code": error.exit_code,
    })  # fmt: skip
    return error.exit_code


def write_json_line(document: Mapping[str, object]) -> None:
    """Writes one JSON object on one line of stderr."""
    sys.stderr.write(json.dumps(document, ensure_ascii=False) + "\n")
