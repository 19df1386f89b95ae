"""The rounds of an agent: look, say that the node lives, send what is new, wait.

Rules:

- each round takes a new inventory; only the newest is ever sent, so an agent that was offline for
  a day sends one;
- the whole inventory goes out when the server wants it: it does not know the state of a heartbeat;
- what should run is fetched when its digest changes, and kept on the disk; nothing is started or
  stopped by it;
- waits are never the same twice, so that a fleet that lost its server does not come back as one;
- what fails is said once, and again when it is something else; no round ends the agent.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.agent.client import BusyError, FleetClient
from enginekeeper.fleet.agent.memory import AgentMemory, AgentStatus
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.wire import Heartbeat, InventoryMessage, Wish, state_of
from registry.errors import DiagnosedError

_log = logging.getLogger("enginekeeper.progress")
_FIRST_RETRY, _LAST_RETRY = 5.0, 300.0  # seconds
_SHORTEST, _LONGEST = 1.0, 3600.0  # seconds: what a server may ask for between two rounds
_SOONEST, _LATEST = 0.9, 0.98
"""Parts of a period between the starts of two rounds: what changes is on record within one."""


@dataclass
class Agent:
    """One node's agent; `run` goes on until `wait` says that it is to stop."""

    look: Callable[[], Inventory]
    """Takes the inventory of the node."""
    client: FleetClient
    memory: AgentMemory
    wait: Callable[[float], bool]
    """Waits so many seconds; True when the agent is to stop."""
    pid: int
    period: float = 60.0
    """Seconds between rounds, until the server says otherwise."""
    chance: Callable[[], float] = random.random
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    _failures: int = field(default=0, init=False)
    _accepted: str | None = field(default=None, init=False)
    _sent: str | None = field(default=None, init=False)
    _problem: str | None = field(default=None, init=False)

    def run(self) -> None:
        """Goes round until it is to stop; the first round comes after a part of the period."""
        if self.wait(self.chance() * min(self.period, _FIRST_RETRY)):
            return
        while not self.wait(self.round()):
            pass

    def round(self) -> float:
        """Makes one round and returns the seconds to the next."""
        began = self.clock()
        try:
            inventory = self.look()
        except DiagnosedError as error:
            return self._failed(error)
        document = inventory.as_dict()
        state = state_of(document)
        sequence = 0
        try:
            sequence = self.memory.next_sequence()
            self._speak(inventory, document, state, sequence)
        except DiagnosedError as error:
            seconds = self._failed(error)
        else:
            self._worked()
            part = _SOONEST + (_LATEST - _SOONEST) * self.chance()
            seconds = max(0.1 * self.period, part * self.period - (self.clock() - began))
        self._keep(inventory, state, sequence)
        return seconds

    def _speak(
        self, inventory: Inventory, document: dict[str, object], state: str, sequence: int
    ) -> None:
        node, boot = inventory.node, inventory.boot_id
        answer = self.client.heartbeat(Heartbeat(node, boot, sequence, self.now(), state))
        self._accepted = self._moment()
        if answer.inventory is Wish.WANTED:
            message = InventoryMessage(node, boot, self.memory.next_sequence(), document)
            kept = self.client.put_inventory(message)
            self._sent = self._moment()
            if kept.state != state:
                _log.warning("the server names the inventory %s, and the agent %s: are they of one "
                             "version?", kept.state[:24], state[:24])  # fmt: skip
        self._follow(answer.desired)
        self.period = min(max(float(answer.next_seconds), _SHORTEST), _LONGEST)

    def _follow(self, digest: str | None) -> None:
        """Keeps what should run here when the server says that it is something else."""
        if digest is None:
            self.memory.keep_desired(None)
            return
        try:
            kept = self.memory.desired()
        except InputError:  # a damaged file is as good as none
            kept = None
        if kept is None or kept.digest != digest:
            desired = self.client.desired()
            self.memory.keep_desired(desired)
            _log.info("desired: %d engines (%s)", len(desired.assignments), desired.digest[:24])

    def _failed(self, error: DiagnosedError) -> float:
        """Notes a failure and returns how long to leave the server alone: longer each time."""
        problem = str(error)
        if problem != self._problem:
            _log.warning("%s", problem)
        self._problem = problem
        longest = max(self.period, _LAST_RETRY)
        seconds = min(longest, _FIRST_RETRY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        if isinstance(error, BusyError):
            seconds = max(seconds, error.seconds)
        return seconds * (0.5 + self.chance())

    def _worked(self) -> None:
        if self._problem is not None:
            _log.info("the server answers again")
        self._failures, self._problem = 0, None

    def _keep(self, inventory: Inventory, state: str, sequence: int) -> None:
        """Keeps how it went for `agent status`; a full disk is said and ends nothing."""
        status = AgentStatus(
            node=inventory.node, server=self.client.url, pid=self.pid, period_seconds=self.period,
            tried_at=self._moment(), accepted_at=self._accepted, failures=self._failures,
            problem=self._problem, sequence=sequence, state=state, inventory_sent_at=self._sent,
        )  # fmt: skip
        try:
            self.memory.keep_status(status)
        except UnavailableError as error:
            _log.warning("%s", error)

    def _moment(self) -> str:
        return self.now().isoformat(timespec="seconds")
