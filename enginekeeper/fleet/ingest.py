"""Takes what agents say: heartbeats in memory, inventories into the catalogue.

Rules:

- a heartbeat of a node whose inventory is known costs no statement: it is remembered, and written
  with all others once a second; a crash loses a second of "last seen" and nothing else;
- an inventory is answered after it was committed, never before;
- the server's clock decides; a node's is only compared with it;
- a sequence that is not newer, or a boot that was followed by another, is a replay or a second
  node of that name: it is refused, logged with both boots, and changes nothing;
- what is enrolled, relabelled or retired by others is noticed by the audit log, within a second.

One thread speaks to this at a time; `offer`, `take`, `write` and `refresh` may run beside it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from enginekeeper.fleet.inventories import checked_inventory
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.profiles import report_of
from enginekeeper.fleet.refusals import (
    ForeignNodeError,
    RefusedMessageError,
    ReplayedError,
    UnknownTokenError,
)
from enginekeeper.fleet.tokens import is_token, node_of
from enginekeeper.fleet.wire import Wish, parse_heartbeat, parse_inventory_message, state_of
from registry.catalogue import Catalogue
from registry.fleet.types import Beat, Node, NodeReport, Taken, TakenReport
from registry.types import Restoration

_LOG = logging.getLogger(__name__)
_BOOTS = 8
"""How many earlier boots of a node are remembered."""
_TOGETHER = 5000
"""Heartbeats that one statement writes."""
_FARTHEST = 2**31 - 1
"""Seconds that a clock can be said to be off."""


@dataclass(slots=True)
class Speaker:
    """A node that speaks to the server, and what was last taken of it."""

    id: int
    name: str
    token: str
    simulated: bool
    retired: bool
    state: str | None
    profile: int | None
    """Row of its profile; None before its first inventory."""
    sequence: int
    boot_id: str | None
    earlier_boots: tuple[str, ...]
    clock_offset: int

    @classmethod
    def of(cls, node: Node) -> Speaker:
        """Returns the speaker that a node of the catalogue is."""
        return cls(
            node.id, node.name, node.token, node.simulated, node.retired_at is not None, node.state,
            node.profile, node.sequence, node.boot_id, tuple(node.earlier_boots),
            node.clock_offset or 0,
        )  # fmt: skip


@dataclass(frozen=True)
class Offered:
    """An inventory that was looked through and may be taken."""

    speaker: Speaker
    report: NodeReport
    inventory: Inventory


@dataclass
class Ingest:
    """Everything that was heard, between the agents and one catalogue."""

    catalogue: Catalogue
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _speakers: dict[str, Speaker] = field(default_factory=dict)
    _heard: dict[int, Beat] = field(default_factory=dict)
    """What is not written yet, by node."""
    _audited: int = 0
    """The last entry of the audit log that was looked at."""
    _restored: Restoration | None = None
    """The last time that the catalogue was put back from a backup, when it was looked at."""

    def load(self) -> None:
        """Learns every node; what was heard of one since it was written counts on."""
        with self.catalogue.read() as view:
            self._audited = view.fleet.last_change()
            self._restored = view.last_restoration()
            nodes = view.fleet.nodes(retired=True)
        names = {node.name for node in nodes}
        self._speakers = {name: one for name, one in self._speakers.items() if name in names}
        for node in nodes:
            self._renew(node)

    def refresh(self) -> bool:
        """Learns what was changed by others; says whether anything at all was."""
        with self.catalogue.read() as view:
            last, restored = view.fleet.last_change(), view.last_restoration()
            if last == self._audited and restored == self._restored:
                return False
            changed = view.fleet.nodes_changed_after(self._audited)
            known = {name: view.fleet.known_node(name) for name in changed}
        # An entry about many nodes at once; or what nodes said since the backup is lost, and a node
        # whose state is another than the restored one is asked for it again.
        if restored != self._restored or any(node is None for node in known.values()):
            self.load()
            return True
        self._audited = last
        for node in known.values():
            self._renew(node)
        return True

    def authenticated(self, token: str) -> Speaker:
        """Returns whose token it is; raises UnknownTokenError."""
        speaker = self._speakers.get(node_of(token) or "")
        if speaker is None or speaker.retired or not is_token(token, speaker.token):
            raise UnknownTokenError(
                "the token is unknown, or counts no more",
                where="Authorization",
                expected="Bearer, and the token that `node enroll` printed",
                remedy="enginekeeper node enroll, on the server",
            )
        return speaker

    def heartbeat(self, token: str, body: bytes) -> tuple[Speaker, Wish]:
        """Takes a heartbeat; raises RefusedMessageError, or InputError that names the field."""
        speaker = self.authenticated(token)
        beat = parse_heartbeat(body)
        boots = self._admit(speaker, beat.node, beat.boot_id, beat.sequence)
        now = self.clock()
        ahead = round((beat.sent_at - now).total_seconds())
        speaker.clock_offset = max(-_FARTHEST, min(_FARTHEST, ahead))
        speaker.sequence, speaker.earlier_boots = beat.sequence, boots
        speaker.boot_id = beat.boot_id or speaker.boot_id
        self._heard[speaker.id] = Beat(
            speaker.id, now, beat.sequence, speaker.boot_id, boots, speaker.clock_offset
        )
        return speaker, Wish.KNOWN if beat.state == speaker.state else Wish.WANTED

    def offer(self, token: str, body: bytes) -> Offered:
        """Looks an inventory through and changes nothing; raises as `heartbeat` does."""
        speaker = self.authenticated(token)
        message = parse_inventory_message(body)
        state = state_of(message.inventory)
        said_again = message.sequence == speaker.sequence and state == speaker.state
        boots = speaker.earlier_boots
        if not said_again or message.node != speaker.name:
            boots = self._admit(speaker, message.node, message.boot_id, message.sequence)
        document = json.dumps(message.inventory, separators=(",", ":")).encode()
        inventory = checked_inventory(message.inventory, document, "inventory: inventory")
        _check_own(speaker, inventory)
        boot = message.boot_id or speaker.boot_id
        heard = Beat(speaker.id, self.clock(), message.sequence, boot, boots, speaker.clock_offset)
        return Offered(speaker, report_of(inventory, document, state, heard), inventory)

    def take(self, offered: Sequence[Offered]) -> list[TakenReport]:
        """Commits inventories of different nodes; `settle` each of them afterwards."""
        with self.catalogue.edit() as draft:
            return draft.fleet.take([one.report for one in offered], self.clock())

    def settle(self, offered: Offered, taken: TakenReport) -> bool:
        """Remembers what became of an inventory; says whether it was news.

        Raises UnknownTokenError or ReplayedError where the catalogue knew better.
        """
        speaker, beat = offered.speaker, offered.report.beat
        if taken.what is Taken.GONE:
            speaker.retired = True
            self.authenticated("")
        if taken.what is Taken.STALE:
            self._refuse(speaker, beat.boot_id, beat.sequence, "something newer was taken before")
        speaker.state, speaker.profile = offered.report.state, taken.profile
        if beat.sequence > speaker.sequence:
            speaker.sequence, speaker.boot_id = beat.sequence, beat.boot_id
            speaker.earlier_boots = beat.earlier_boots
        return taken.what is Taken.RECORDED

    def heard(self) -> list[Beat]:
        """Returns the heartbeats that are not written yet, which `write` is to do, or `keep`."""
        heard, self._heard = self._heard, {}
        return list(heard.values())

    def keep(self, beats: Iterable[Beat]) -> None:
        """Keeps what could not be written for the next time, unless the node was heard again."""
        self._heard = {**{one.node: one for one in beats}, **self._heard}

    def write(self, beats: Sequence[Beat]) -> None:
        """Writes heartbeats; those of one statement all or none."""
        for start in range(0, len(beats), _TOGETHER):
            with self.catalogue.edit() as draft:
                draft.fleet.beat(beats[start : start + _TOGETHER])

    def _renew(self, node: Node | None) -> None:
        """Takes over what the catalogue has of a node; what was heard since counts on.

        With a new token its sequence starts over.
        """
        if node is None:
            return
        fresh, known = Speaker.of(node), self._speakers.get(node.name)
        if known is not None and known.token == fresh.token:
            fresh.sequence = max(fresh.sequence, known.sequence)
            fresh.boot_id, fresh.earlier_boots = known.boot_id, known.earlier_boots
        else:
            self._heard.pop(fresh.id, None)
        self._speakers[node.name] = fresh

    def _admit(
        self, speaker: Speaker, node: str, boot_id: str | None, sequence: int
    ) -> tuple[str, ...]:
        """Returns the boots before this one; raises for another's message, or an old one."""
        if node != speaker.name:
            _LOG.warning("refused: token of %s used for node %s", speaker.name, node)
            raise ForeignNodeError(
                "the token is of another node",
                where="node", actual=node, expected=speaker.name,
                remedy="each node has a token of its own: enginekeeper node enroll",
            )  # fmt: skip
        if sequence <= speaker.sequence:
            self._refuse(speaker, boot_id, sequence, "the sequence is not newer")
        if boot_id in speaker.earlier_boots:
            self._refuse(speaker, boot_id, sequence, "its boot was followed by another one")
        if boot_id in (None, speaker.boot_id) or speaker.boot_id is None:
            return speaker.earlier_boots
        _LOG.info("node %s: boot %s after %s", node, boot_id, speaker.boot_id)
        return (speaker.boot_id, *speaker.earlier_boots)[:_BOOTS]

    @staticmethod
    def _refuse(speaker: Speaker, boot_id: str | None, sequence: int, why: str) -> NoReturn:
        _LOG.warning(
            "refused: node %s, %s: sequence %d of boot %s after %d of boot %s",
            speaker.name, why, sequence, boot_id, speaker.sequence, speaker.boot_id,
        )  # fmt: skip
        raise ReplayedError(
            f"not taken, {why}: a replay, or two agents with one identity",
            where=speaker.name,
            actual=f"sequence {sequence} of boot {boot_id}",
            expected=f"more than {speaker.sequence}; the last boot is {speaker.boot_id}",
            remedy="stop one of two agents; after a lost disk: enginekeeper node enroll --again",
        )


def _check_own(speaker: Speaker, inventory: Inventory) -> None:
    """Raises unless an inventory is of the node that sent it, and of its kind."""
    if inventory.node != speaker.name:
        raise ForeignNodeError(
            "the inventory is of another node",
            where="inventory: node", actual=inventory.node, expected=speaker.name,
        )  # fmt: skip
    if inventory.simulated is not speaker.simulated:
        _LOG.warning("refused: node %s says simulated = %s", speaker.name, inventory.simulated)
        raise RefusedMessageError(
            "the node is not of the kind it was enrolled as",
            where="inventory: simulated", actual=inventory.simulated, expected=speaker.simulated,
            remedy="a simulated node is enrolled as one: enginekeeper node enroll --simulated",
        )  # fmt: skip
