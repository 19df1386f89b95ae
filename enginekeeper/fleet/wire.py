"""What agents and the server say to each other: messages as JSON, their limits, the state digest.

Rules:

- the agent imports this: nothing here needs more than the standard library;
- a message is read strictly (a field that is missing or of another kind is an InputError that
  names it), but fields of newer versions are passed over: an old server must hear a new agent;
- a sequence only ever grows, over restarts and reboots too, so that what is replayed or comes
  late is known as such; every attempt takes a new one;
- a time of a node is its own word: the server keeps its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError
from registry.digests import Digest, digest_document
from registry.errors import DiagnosedError, InvalidRecordError
from registry.names import check_component

HEARTBEAT_PATH, INVENTORY_PATH, DESIRED_PATH = "/v1/heartbeat", "/v1/inventory", "/v1/desired"

MAX_HEARTBEAT_BYTES = 4 * 1024
MAX_INVENTORY_BYTES = 4 * 1024 * 1024
"""Of the whole message; one of eight GPUs and three engines has about 8 kB."""

MAX_SEQUENCE = 10**18 - 1
STATE_SCHEME = "ek-node-state-v1"
DESIRED_SCHEME = "ek-desired-v1"
_BOOT_ID_LENGTH = 64
_Read = TypeVar("_Read")


class Wish(StrEnum):
    """Whether the server has the inventory that a heartbeat names."""

    KNOWN = "known"
    WANTED = "wanted"


@dataclass(frozen=True)
class Heartbeat:
    """A node lives, and its inventory is the one of this state."""

    node: str
    boot_id: str | None
    """None where the system gives none."""
    sequence: int
    sent_at: datetime
    """By the node's own clock."""
    state: str
    """`state_of` its inventory."""

    def to_bytes(self) -> bytes:
        """Returns the message."""
        return _encode({**asdict(self), "sent_at": self.sent_at.astimezone(UTC).isoformat()})


@dataclass(frozen=True)
class HeartbeatAnswer:
    """What the server says to a heartbeat."""

    inventory: Wish
    desired: str | None
    """Digest of what should run on the node; None where nothing was assigned to it."""
    next_seconds: int
    """When to speak again."""

    def to_bytes(self) -> bytes:
        """Returns the message."""
        return _encode(asdict(self))


@dataclass(frozen=True)
class InventoryMessage:
    """The whole inventory of a node, as a document that nobody has looked into yet."""

    node: str
    boot_id: str | None
    sequence: int
    inventory: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Returns the message."""
        return _encode(
            {
                "node": self.node,
                "boot_id": self.boot_id,
                "sequence": self.sequence,
                "inventory": self.inventory,
            }
        )


@dataclass(frozen=True)
class InventoryAnswer:
    """The inventory is kept."""

    state: str
    recorded: bool
    """False where it was known already and nothing was changed."""

    def to_bytes(self) -> bytes:
        """Returns the message."""
        return _encode(asdict(self))


@dataclass(frozen=True)
class DesiredEngine:
    """What one assignment means on a node."""

    model: str
    channel: str
    engine: str | None
    """Digest of the engine; None where there is none for this node."""
    reason: str | None = None
    """Why there is none."""
    containers: tuple[str, ...] = ()
    """The images that assignments name for it, as `ek drift` holds them; none: any will do."""

    def as_dict(self) -> dict[str, Any]:
        """Returns it as a JSON object; images only where any is named."""
        document = asdict(self)
        if not self.containers:
            del document["containers"]
        return document


@dataclass(frozen=True)
class Desired:
    """Everything that should run on a node."""

    node: str
    assignments: tuple[DesiredEngine, ...]

    @property
    def digest(self) -> str:
        """What a heartbeat's answer calls it; the node's name is not part of it."""
        documents = [one.as_dict() for one in self.assignments]
        return str(digest_document(documents, DESIRED_SCHEME))

    @property
    def digest_of_engines(self) -> str:
        """The same without images: the one that agents know which were made before them.

        Such an agent fetches what names an image each round, and refuses nothing.
        """
        bare = tuple(replace(one, containers=()) for one in self.assignments)
        return replace(self, assignments=bare).digest

    def to_bytes(self) -> bytes:
        """Returns the message."""
        assignments = [one.as_dict() for one in self.assignments]
        digest = self.digest_of_engines
        return _encode({"node": self.node, "digest": digest, "assignments": assignments})


@dataclass(frozen=True)
class Problem:
    """Why the server refused, in the words of its error."""

    what: str
    where: str | None = None
    actual: str | None = None
    expected: str | None = None
    remedy: str | None = None

    @classmethod
    def of(cls, error: DiagnosedError) -> Problem:
        """Returns what an error says."""
        actual, expected = (
            None if one is None else str(one) for one in (error.actual, error.expected)
        )
        return cls(error.what, error.where, actual, expected, error.remedy)

    def to_bytes(self) -> bytes:
        """Returns the message."""
        return _encode(asdict(self))


def state_of(inventory: Mapping[str, Any]) -> str:
    """Returns the digest that names an inventory's content, whenever it was taken.

    What changes by itself is no part of it: the time, the boot (a heartbeat has both), and which
    processes compute with how much memory. That any computes which no run names is part of it: a
    wave must not take such a node for an idle one.
    """
    content = {name: one for name, one in inventory.items() if name not in ("taken_at", "boot_id")}
    devices = content.get("devices")
    if isinstance(devices, list | tuple):
        named = _pids(content.get("running"))
        read = [one for one in devices if isinstance(one, Mapping)]
        if any(_pids(device.get("processes")) - named for device in read):
            content["other_processes"] = True
        content["devices"] = [
            {name: one for name, one in device.items() if name != "processes"}
            if isinstance(device, Mapping)
            else device
            for device in devices
        ]
    return str(digest_document(content, STATE_SCHEME))


def _pids(listed: object) -> set[int]:
    """Returns the process ids in a list of a document that nobody has looked into yet."""
    if not isinstance(listed, list | tuple):
        return set()
    said = [one.get("pid") for one in listed if isinstance(one, Mapping)]
    return {pid for pid in said if isinstance(pid, int)}


def parse_heartbeat(body: bytes, where: str = "heartbeat") -> Heartbeat:
    """Reads a heartbeat; raises InputError that names the field."""
    read = _Fields.of(body, where, MAX_HEARTBEAT_BYTES)
    return Heartbeat(
        node=read.text("node", _node),
        boot_id=read.optional("boot_id", _boot_id),
        sequence=read.whole("sequence", MAX_SEQUENCE),
        sent_at=read.text("sent_at", _time),
        state=read.text("state", _state),
    )


def parse_heartbeat_answer(body: bytes, where: str = "answer") -> HeartbeatAnswer:
    """Reads the answer to a heartbeat; raises InputError that names the field."""
    read = _Fields.of(body, where, MAX_HEARTBEAT_BYTES)
    return HeartbeatAnswer(
        inventory=read.text("inventory", Wish),
        desired=read.optional("desired", _digest),
        next_seconds=read.whole("next_seconds", 24 * 3600),
    )


def parse_inventory_message(body: bytes, where: str = "inventory") -> InventoryMessage:
    """Reads the frame around an inventory, not the inventory; raises InputError."""
    read = _Fields.of(body, where, MAX_INVENTORY_BYTES)
    inventory = read("inventory")
    if not isinstance(inventory, dict):
        raise read.refused("inventory", inventory, "an object")
    return InventoryMessage(
        node=read.text("node", _node),
        boot_id=read.optional("boot_id", _boot_id),
        sequence=read.whole("sequence", MAX_SEQUENCE),
        inventory=inventory,
    )


def parse_inventory_answer(body: bytes, where: str = "answer") -> InventoryAnswer:
    """Reads the answer to an inventory; raises InputError that names the field."""
    read = _Fields.of(body, where, MAX_HEARTBEAT_BYTES)
    recorded = read("recorded")
    if not isinstance(recorded, bool):
        raise read.refused("recorded", recorded, "true or false")
    return InventoryAnswer(read.text("state", _state), recorded)


def parse_desired(body: bytes, where: str = "desired") -> Desired:
    """Reads what should run on a node; raises InputError, also where its digest is not its own."""
    read = _Fields.of(body, where, MAX_INVENTORY_BYTES)
    assignments = read("assignments")
    if not isinstance(assignments, list):
        raise read.refused("assignments", assignments, "a list")
    found = Desired(
        read.text("node", _node),
        tuple(_desired_engine(one, f"{where}: {at}") for at, one in enumerate(assignments)),
    )
    if read("digest") != found.digest_of_engines:
        raise read.refused("digest", read("digest"), found.digest_of_engines)
    return found


def parse_problem(body: bytes, where: str = "refusal") -> Problem:
    """Reads why the server refused; raises InputError for what is no such answer."""
    read = _Fields.of(body, where, MAX_INVENTORY_BYTES)
    others = (read.optional(name, str) for name in ("where", "actual", "expected", "remedy"))
    return Problem(read.text("what", str), *others)


def _desired_engine(document: object, where: str) -> DesiredEngine:
    read = _Fields(document, where)
    return DesiredEngine(
        model=read.text("model", _node),
        channel=read.text("channel", _node),
        engine=read.optional("engine", _digest),
        reason=read.optional("reason", str),
        containers=read.texts("containers"),
    )


class _Fields:
    """Takes fields out of a message, each with the kind it must have."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise InputError("not a JSON object", where=where, actual=type(document).__name__)
        self._document = document
        self._where = where

    @classmethod
    def of(cls, body: bytes, where: str, limit: int) -> _Fields:
        if len(body) > limit:
            raise InputError(
                "too large for such a message",
                where=where, actual=f"{len(body)} bytes", expected=f"at most {limit} bytes",
            )  # fmt: skip
        return cls(parse_json(body, where), where)

    def __call__(self, name: str) -> object:
        """Returns a field, None where it is missing."""
        return self._document.get(name)

    def refused(self, name: str, actual: object, expected: str) -> InputError:
        """Returns the error for a field that is not what it must be."""
        shown = "missing" if name not in self._document else ascii(actual)[:120]
        return InputError(
            "the field is not what it must be",
            where=f"{self._where}: {name}", actual=shown, expected=expected,
        )  # fmt: skip

    def text(self, name: str, read: Callable[[str], _Read]) -> _Read:
        """Returns what a text means; refuses what is no text, or text that is not printable."""
        value = self(name)
        if not isinstance(value, str) or not value.isprintable():
            raise self.refused(name, value, "printable text")
        try:
            return read(value)
        except InvalidRecordError as error:
            raise self.refused(name, value, str(error.expected or error.what)) from error
        except ValueError as error:
            raise self.refused(name, value, str(error)) from error

    def optional(self, name: str, read: Callable[[str], _Read]) -> _Read | None:
        """Returns what a text means, None for null or a field that is missing."""
        return None if self(name) is None else self.text(name, read)

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of printable texts, none for null or a field that is missing."""
        value = self(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.refused(name, value, "a list of printable texts")
        found = tuple(one for one in value if isinstance(one, str) and one.isprintable())
        if len(found) != len(value):
            raise self.refused(name, value, "a list of printable texts")
        return found

    def whole(self, name: str, most: int) -> int:
        """Returns a whole number from 0 on."""
        value = self(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.refused(name, value, f"a whole number from 0 to {most}")
        return value


def _node(text: str) -> str:
    return check_component(text, where="node")


def _boot_id(text: str) -> str:
    if not 0 < len(text) <= _BOOT_ID_LENGTH:
        raise ValueError(f"1 to {_BOOT_ID_LENGTH} characters")
    return text


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time with its time zone")
    return found


def _digest(text: str) -> str:
    return str(Digest.parse(text))


def _state(text: str) -> str:
    if Digest.parse(text).scheme != STATE_SCHEME:
        raise ValueError(f"a digest `{STATE_SCHEME}:…`")
    return text


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
