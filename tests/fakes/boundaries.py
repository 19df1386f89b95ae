"""Every moment at which a run changes something, by name; where a test may stop or starve it.

A boundary is a change to a file below the run's directory (open for writing, rename, link, mkdir,
remove), the start of a process, a line that a step says while it works, a commit of the
catalogue, or the progress that a stage tells as it begins. Names leave out what differs from run
to run, so that they can be compared.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from enginekeeper.toolchains import processes, runner

_VARIES = (
    (re.compile(r"\d{8}T\d{6}-\d+"), "RUN"),
    (re.compile(r"[0-9a-f]{12,}"), "#"),
    (re.compile(r"/[0-9a-f]{2}(?=/|$)"), "/#"),
    (re.compile(r"tmp[a-z0-9_]{8}"), "TMP"),
    (re.compile(r"\.checkpoint\.[a-z0-9_]{8}"), ".checkpoint.TMP"),
    (re.compile(r"\d{6,}"), "#"),
)
_PATHS = {
    "os.link": 1, "os.mkdir": 0, "os.remove": 0, "os.rename": 1, "os.rmdir": 0, "shutil.rmtree": 0,
}  # fmt: skip
"""Python's audit events that change a directory, and which argument is the path that changes."""

_NEEDS_ROOM = ("open", "os.link", "os.mkdir", "os.rename")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def name_of(root: str, kind: str, what: str) -> str:
    """Returns a boundary's name: its kind, and what it is about without what varies."""
    text = what.removeprefix(root).lstrip("/")
    for pattern, word in _VARIES:
        text = pattern.sub(word, text)
    return f"{kind} {text}"


@dataclass
class Boundaries:
    """Notes every boundary of this process, or acts at the first that is not in `passed`."""

    root: str
    notes: Path
    passed: frozenset[str] | None
    """The names to let pass; None to let all of them pass and note them."""

    at: str
    """How the name of the boundary begins; every other one passes, too."""

    signal: str | None
    """What to send to this process there."""

    group: bool
    """Sends it to the whole process group, as a terminal sends Ctrl-C."""

    full: bool
    """Lets whatever needs room fail from there on, as on a full disk."""

    acted: bool = False

    def reach(self, name: str) -> None:
        if self.passed is None:
            self._note(name)
        elif not self.acted and name not in self.passed and name.startswith(self.at):
            self.acted = True
            self._note(name)
            if self.signal is not None:
                send = os.killpg if self.group else os.kill
                send(os.getpid(), signal.Signals[self.signal])

    def audit(self, kind: str, arguments: tuple[Any, ...]) -> None:
        if kind == "subprocess.Popen":
            script = next((str(word) for word in arguments[1] if str(word).endswith(".py")), "?")
            self.reach(f"start {Path(script).stem}")
        elif (path := self._changed(kind, arguments)) is not None:
            self.reach(name_of(self.root, kind, path))
            if self.full and self.acted and kind in _NEEDS_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _changed(self, kind: str, arguments: tuple[Any, ...]) -> str | None:
        """Returns the path below the root that an audit event is about to change."""
        if kind == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & _WRITES
            path = arguments[0] if writes else None
        else:
            path = arguments[_PATHS[kind]] if kind in _PATHS else None
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.fsdecode(path)
        return text if text.startswith(self.root) and text != str(self.notes) else None

    def _note(self, name: str) -> None:
        descriptor = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, name.encode() + b"\n")
        os.close(descriptor)


def watch(request: dict[str, Any]) -> None:
    """Watches this process for the rest of its life."""
    passed = request.get("passed", [] if "at" in request else None)
    found = Boundaries(
        root=request["root"],
        notes=Path(request["notes"]),
        passed=None if passed is None else frozenset(passed),
        at=request.get("at", ""),
        signal=request.get("signal"),
        group=bool(request.get("group")),
        full=bool(request.get("full")),
    )
    vars(runner)["run_command"] = _watched(processes.run_command, found)
    event.listen(Engine, "commit", lambda _connection: found.reach("commit of the catalogue"))
    logging.getLogger("enginekeeper.progress").addFilter(lambda record: _told(record, found))
    sys.addaudithook(found.audit)


def _watched(run_command: Callable[..., Any], found: Boundaries) -> Callable[..., Any]:
    def run(command: processes.Command, on_line: Callable[[str], None] | None = None) -> Any:  # noqa: ANN401
        step = Path(command.arguments[4]).stem

        def tell(line: str) -> None:
            found.reach(f"in {step}: {line}")
            if on_line is not None:
                on_line(line)

        return run_command(command, tell)

    return run


def _told(record: logging.LogRecord, found: Boundaries) -> bool:
    text = record.getMessage()
    if text.endswith("..."):  # something begins
        found.reach(f"says {text}")
    return True
