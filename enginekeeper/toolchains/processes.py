"""Runs one child process so that nothing of it is left when it has ended, however it ends.

Rules:

- the child leads a session and process group of its own: a Ctrl-C at the terminal reaches
  this process only, which then ends the group;
- when the child ends, is out of time, or this call is left by any exception, every process of
  its group is killed, and so is every descendant that moved to another session: they all
  carry the same token in their environment;
- killing is SIGKILL at once: what these children write becomes visible by a rename only;
- the child's standard input is a pipe that closes when this process dies, so that a child
  that watches it can end itself (see `enginekeeper/steps/_step.py`);
- output goes to the log as it is, up to a limit, and line by line to the caller.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LOG_LIMIT = 64 * 1024 * 1024  # bytes; a child that never stops talking must not fill the disk

_TOKEN = "ENGINEKEEPER_PROCESS_TOKEN"  # noqa: S105 - a mark, not a secret
_POLL = 0.05  # seconds; how late the end of a silent child is noticed
_LONGEST_LINE = 16 * 1024  # characters handed to the caller as one line


@dataclass(frozen=True)
class Command:
    """What to run, with exactly which environment, and where its output goes."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    timeout_seconds: float


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    status: int
    """The exit status, or the negative number of the signal that ended it."""

    timed_out: bool
    seconds: float


def run_command(command: Command, on_line: Callable[[str], None] | None = None) -> Ended:
    """Runs a command to its end or its time limit; leaves no process behind in any case."""
    token = uuid.uuid4().hex
    started = time.monotonic()
    with command.log.open("wb") as log:
        child = subprocess.Popen(
            command.arguments,
            cwd=command.directory,
            env={**command.environment, _TOKEN: token},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output = _Output(child, log, on_line)
        try:
            in_time = output.follow(until=started + command.timeout_seconds)
            _kill_all(child.pid, token)
            output.finish()
        finally:
            _kill_all(child.pid, token)
            output.close()
            status = child.wait()
    return Ended(status, not in_time, time.monotonic() - started)


class _Output:
    """Moves a child's output to its log and, line by line, to whoever listens."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        log: BinaryIO,
        on_line: Callable[[str], None] | None,
    ) -> None:
        if child.stdout is None or child.stdin is None:
            raise TypeError("the child was started without pipes")
        self._child = child
        self._stdout = child.stdout
        self._stdin = child.stdin
        self._log = log
        self._on_line = on_line
        self._rest = ""
        self._logged = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)

    def follow(self, *, until: float) -> bool:
        """Moves output until the child has ended; returns False when time is up first."""
        while not _has_ended(self._child.pid):
            if time.monotonic() >= until:
                return False
            self._move(wait=_POLL)
        return True

    def finish(self) -> None:
        """Moves what is left in the pipe; all who could write to it are gone."""
        while self._move(wait=0.0):
            pass
        if self._rest:
            self._tell(self._rest)
        self._log.flush()

    def close(self) -> None:
        self._selector.close()
        self._stdout.close()
        self._stdin.close()

    def _move(self, *, wait: float) -> bool:
        """Moves one piece; returns False when there was none within the time."""
        if not self._selector.get_map():
            time.sleep(wait)  # the child closed its output and lives on
            return False
        if not self._selector.select(wait):
            return False
        piece = os.read(self._stdout.fileno(), 65536)
        if not piece:
            self._selector.unregister(self._stdout)
            return False
        self._keep(piece)
        lines = (self._rest + piece.decode(errors="replace")).replace("\r", "\n").split("\n")
        self._rest = lines.pop()[-_LONGEST_LINE:]
        for line in lines:
            self._tell(line)
        return True

    def _keep(self, piece: bytes) -> None:
        if self._logged >= LOG_LIMIT:
            return
        self._log.write(piece)
        self._log.flush()
        self._logged += len(piece)
        if self._logged >= LOG_LIMIT:
            self._log.write(f"\n[the log ends here: {LOG_LIMIT} bytes]\n".encode())

    def _tell(self, line: str) -> None:
        """Passes a line on without what could steer a terminal."""
        text = "".join(character for character in line if character.isprintable())
        if self._on_line is not None and text.strip():
            self._on_line(text[:_LONGEST_LINE])


def _has_ended(pid: int) -> bool:
    """Looks without reaping: while the child is a zombie nobody else can get its group's number."""
    state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return state is not None


def _kill_all(group: int, token: str) -> None:
    """Kills a group and everybody with the token, again until none is left."""
    for _ in range(100):
        with suppress(ProcessLookupError, PermissionError):  # empty; on macOS only a zombie
            os.killpg(group, signal.SIGKILL)
        strays = _with_token(token)
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not strays:
            return
        time.sleep(0.01)


def _with_token(token: str) -> list[int]:
    """Returns the processes of this user that inherited the token; Linux only, else none."""
    mark = f"{_TOKEN}={token}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return found
