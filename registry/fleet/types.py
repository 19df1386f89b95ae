"""What goes into the fleet's tables and comes out of them, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from registry.digests import digest_document
from registry.versions import VersionRange

PROFILE_SCHEME = "ek-node-profile-v1"
ENGINE_SET_SCHEME = "ek-engine-set-v1"
WITH_IMAGES_SCHEME = "ek-engine-set-v2"
"""Of a set that container images tell apart; where none was told it is named as ever."""
HARDWARE_SCHEME = "ek-node-devices-v1"


@dataclass(frozen=True)
class Node:
    """An enrolled node, and what the server needs to hear it."""

    id: int
    name: str
    token: str
    """SHA-256 of its token, in hexadecimal digits."""
    simulated: bool
    labels: Mapping[str, str]
    """Of the operator."""
    enrolled_at: datetime
    retired_at: datetime | None
    state: str | None
    """Digest of the inventory it reported last; None before the first."""
    reported_at: datetime | None
    profile: int | None
    """Row of its profile."""
    engine_set: int | None
    sequence: int
    boot_id: str | None
    earlier_boots: Sequence[str]
    seen_at: datetime | None
    clock_offset: int | None

    def as_dict(self) -> dict[str, Any]:
        """Returns what may be shown: all but its token."""
        return {
            "node": self.name,
            "simulated": self.simulated,
            "labels": dict(self.labels),
            "enrolled_at": self.enrolled_at.isoformat(),
            "retired_at": _text(self.retired_at),
            "seen_at": _text(self.seen_at),
            "reported_at": _text(self.reported_at),
            "boot_id": self.boot_id,
            "clock_offset": self.clock_offset,
            "state": self.state,
        }


@dataclass(frozen=True)
class Beat:
    """A heartbeat that was taken and is to be written."""

    node: int
    seen_at: datetime
    sequence: int
    boot_id: str | None
    earlier_boots: tuple[str, ...]
    clock_offset: int


@dataclass(frozen=True)
class PlacedEngine:
    """An engine on a node, as the node says."""

    engine: str
    path: str
    bytes: str | None
    """`verified` or what is wrong; None where only a process of it is known."""
    running: str | None = None
    """The evidence: `declared` or `confirmed`; None where nothing runs it."""
    devices: tuple[str, ...] = ()
    """UUIDs of the GPUs on which it was seen."""
    images: tuple[str | None, ...] = ()
    """Of the containers it runs in, by their starts; None among them for a process that told none
    beside one that did. Empty where nobody told any."""
    placed_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class NodeDevice:
    """A GPU of a node, or a slice of one."""

    uuid: str
    position: int
    product: str
    compute_capability: str
    profile: str | None = None


@dataclass(frozen=True)
class NodeReport:
    """An inventory, as far as the catalogue looks into it."""

    beat: Beat
    state: str
    """Digest of the inventory."""
    driver: str | None
    profile: Mapping[str, Any]
    """What it has in common with others: a JSON object of the layer above, with its `labels`."""
    engines: tuple[PlacedEngine, ...]
    devices: tuple[NodeDevice, ...]
    document: bytes
    """All of it, compressed."""
    engines_told: bool = True
    """Whether all engines are named; of one that is not, nothing is known otherwise."""

    @cached_property
    def hardware(self) -> str:
        """Names the devices."""
        devices = [[*vars(one).values()] for one in self.devices]
        return str(digest_document(devices, HARDWARE_SCHEME))

    @cached_property
    def engine_set(self) -> list[list[str | None]]:
        """The engines, each once with its bytes and evidence, wherever they lie."""
        found = {(one.engine, one.bytes, one.running) for one in self.engines}
        return [list(one) for one in sorted(found, key=lambda one: tuple(map(str, one)))]

    @cached_property
    def images(self) -> list[list[str | None]]:
        """The images in which each engine that runs does, each once; empty if none was told."""
        runs = [one for one in self.engines if one.running is not None]
        if not any(one.images for one in runs):
            return []
        found = {(one.engine, image) for one in runs for image in one.images or (None,)}
        return [list(one) for one in sorted(found, key=lambda one: (one[0], one[1] or ""))]

    @cached_property
    def engine_set_digest(self) -> str:
        """Names the engines, with the images they run in where any was told."""
        if self.images:
            both = {"engines": self.engine_set, "images": self.images}
            return str(digest_document(both, WITH_IMAGES_SCHEME))
        return str(digest_document(self.engine_set, ENGINE_SET_SCHEME))

    def profile_for(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Returns the profile of the node with an operator's labels, which outweigh its own.

        Which of them are the operator's is in it where there are any.
        """
        given = {"labels_given": sorted(labels)} if labels else {}
        return {**self.profile, "labels": {**self.profile["labels"], **labels}, **given}


class Taken(StrEnum):
    """What became of a report."""

    RECORDED = "recorded"
    KNOWN = "known"
    """It is what was reported before."""
    STALE = "stale"
    """Something newer was taken before it; nothing was changed."""
    GONE = "gone"
    """The node is not enrolled any more."""


@dataclass(frozen=True)
class TakenReport:
    """What became of a report, and the profile that its node has now."""

    what: Taken
    profile: int | None = None


@dataclass(frozen=True)
class WhereFilter:
    """Which engines on which nodes are asked for; what is None is not asked."""

    node: str | None = None
    gpu_uuid: str | None = None
    driver: VersionRange | None = None
    engines: tuple[str, ...] | None = None
    """Digests."""
    engine: str | None = None
    """One digest."""
    engine_start: str | None = None
    """How the digest begins, with its scheme."""
    at: datetime | None = None
    """As it was then; None for now."""
    simulated: bool | None = None
    limit: int | None = None


class Placed(NamedTuple):
    """An engine on a node, with everything that is known of both; there may be thousands."""

    node: str
    simulated: bool
    path: str
    bytes: str | None
    running: str | None
    devices: Sequence[str] | None
    """UUIDs of the GPUs on which it was seen; None where it was seen on none."""
    since: datetime
    until: datetime | None
    driver: str | None
    seen_at: datetime | None
    engine: str


@dataclass(frozen=True)
class NamedEngine:
    """What an engine that nodes have is called in the catalogue."""

    digest: str
    model: str
    recipe: str
    target: str
    variant: str
    simulated: bool


@dataclass(frozen=True)
class Interval:
    """Something that was so for a time."""

    since: datetime
    until: datetime | None
    driver: str | None
    profile: Mapping[str, Any]


@dataclass(frozen=True)
class FleetState:
    """Nodes that are alike: of one profile, with the same engines."""

    profile: int
    engine_set: int
    nodes: int


@dataclass(frozen=True)
class Assignment:
    """What should run on the nodes that a selector picks."""

    selector: str
    model: str
    channel: str
    actor: str
    assigned_at: datetime
    container: str | None = None
    """The image it is to run in; None where any will do."""
    container_at: datetime | None = None
    """When that was named."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the assignment as a JSON object."""
        return {
            "selector": self.selector,
            "model": self.model,
            "channel": self.channel,
            "actor": self.actor,
            "assigned_at": self.assigned_at.isoformat(),
            "container": self.container,
            "container_at": _text(self.container_at),
        }


@dataclass(frozen=True)
class DriftIgnore:
    """Drift of one class on some nodes that somebody wants."""

    kind: str
    selector: str
    reason: str
    actor: str
    expires_at: datetime | None
    ignored_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """Returns the rule as a JSON object."""
        return {
            "kind": self.kind,
            "selector": self.selector,
            "reason": self.reason,
            "actor": self.actor,
            "expires_at": _text(self.expires_at),
            "ignored_at": self.ignored_at.isoformat(),
        }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
