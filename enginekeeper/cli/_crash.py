"""What becomes of a defect: its traceback goes into a file, and one line says so."""

from __future__ import annotations

import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from enginekeeper import __version__
from enginekeeper.cli._errors import ExitCode, write_json_line
from enginekeeper.errors import InputError
from enginekeeper.settings import Settings

_REMEDY = "please report this defect of Enginekeeper together with that file"


def report_crash(error: Exception, argv: Sequence[str], *, as_json: bool) -> ExitCode:
    """Keeps the traceback, says on stderr what happened and where it is, and returns 1."""
    what = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    log = _write(_account(error, argv))
    if as_json:
        write_json_line({
            "error": "InternalError",
            "what": what,
            "where": None if log is None else str(log),
            "found": None,
            "expected": None,
            "next": _REMEDY,
            "exit_code": int(ExitCode.INTERNAL),
        })  # fmt: skip
    else:
        place = "nowhere: no directory could be written to" if log is None else log
        sys.stderr.write(f"internal error: {what}\n  log:  {place}\n  next: {_REMEDY}\n")
    return ExitCode.INTERNAL


def _account(error: Exception, argv: Sequence[str]) -> str:
    head = (
        f"enginekeeper {__version__}, Python {sys.version}",
        f"command: {shlex.join(argv)}",
        f"at: {datetime.now(UTC).isoformat(timespec='seconds')}",
    )
    return "\n".join([*head, "", *traceback.format_exception(error)])


def _write(account: str) -> Path | None:
    """Writes a new file into the first folder that takes it."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", errors="backslashreplace",
                prefix="crash-", suffix=".log", dir=folder, delete=False,
            ) as log:  # fmt: skip
                log.write(account)
            return Path(log.name)
        except OSError:
            continue
    return None


def _folders() -> Iterator[Path]:
    # A home that cannot even be named may be the very defect that is being reported.
    with suppress(InputError, RuntimeError):
        yield Settings.from_environment().home / "crashes"
    yield Path(tempfile.gettempdir())
