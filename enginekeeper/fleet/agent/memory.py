"""What an agent must not forget, whoever stops it: its sequence, what should run, how it goes.

HOME/agent/sequence        the last number that was used; on the disk before it is
          /desired.json    the last desired state that the server gave
          /status.json     for `agent status`
          /lock            held while an agent runs
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError, MissingError, UnavailableError
from enginekeeper.fleet.node_files import write_whole
from enginekeeper.fleet.wire import MAX_SEQUENCE, Desired, parse_desired

_LONGEST = len(str(MAX_SEQUENCE))
"""Digits; Python reads no number of some thousands."""


@dataclass(frozen=True)
class AgentStatus:
    """How an agent's last round went."""

    node: str
    server: str
    pid: int
    period_seconds: float
    tried_at: str
    """ISO 8601, UTC, by this node's clock."""
    accepted_at: str | None
    """When the server last took a heartbeat."""
    failures: int
    """Rounds since then."""
    problem: str | None
    sequence: int
    state: str
    inventory_sent_at: str | None


@dataclass(frozen=True)
class AgentMemory:
    """The directory below a home."""

    home: Path
    seconds: Callable[[], float] = field(default=time.time)

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.home / "agent"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one agent of a home run; raises UnavailableError where another does."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle = (self.directory / "lock").open("w", encoding="utf-8")
        except OSError as error:
            raise UnavailableError(
                f"the agent cannot keep anything: {error.strerror}", where=str(self.directory),
                remedy="set ENGINEKEEPER_HOME to a directory you may write to",
            ) from error  # fmt: skip
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UnavailableError(
                    "another agent runs with this home", where=str(self.directory),
                    remedy="enginekeeper agent status",
                ) from error  # fmt: skip
            yield

    def next_sequence(self) -> int:
        """Returns a number above all that were used, once it is on the disk.

        The first one is the time in seconds: a node that was set up anew goes on above its old
        numbers, which grew more slowly. Raises InputError for a file that says no number.
        """
        file = self.directory / "sequence"
        try:
            text = file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            text = str(int(self.seconds()))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", where=str(file)) from error
        if not (text.isdecimal() and len(text) <= _LONGEST and int(text) < MAX_SEQUENCE):
            raise InputError(
                "not the last sequence", where=str(file), actual=text[:40],
                expected="a whole number",
                remedy="remove the file: the next number is then the time in seconds",
            )  # fmt: skip
        following = int(text) + 1
        write_whole(file, f"{following}\n")
        return following

    def desired(self) -> Desired | None:
        """Returns what the server last said should run here; None before that, or if nothing."""
        try:
            data = (self.directory / "desired.json").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror}", where=str(self.directory / "desired.json")
            ) from error
        return parse_desired(data, str(self.directory / "desired.json"))

    def keep_desired(self, desired: Desired | None) -> None:
        """Keeps what should run here, or that nothing should."""
        file = self.directory / "desired.json"
        if desired is not None:
            write_whole(file, desired.to_bytes().decode())
            return
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"cannot be removed: {error.strerror}", where=str(file)
            ) from error

    def keep_status(self, status: AgentStatus) -> None:
        """Keeps how the last round went."""
        write_whole(self.directory / "status.json", json.dumps(asdict(status), indent=2))

    def status(self) -> dict[str, Any]:
        """Returns how the last round went; raises MissingError before the first."""
        file = self.directory / "status.json"
        if not file.is_file():
            raise MissingError(
                "no agent has run with this home", where=str(self.home),
                remedy="enginekeeper agent run --server URL --token-file FILE",
            )  # fmt: skip
        return read_json_object(file)
