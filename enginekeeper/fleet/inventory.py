"""The inventory of a node: one document that says what is there, and how that is known.

What could not be read is absent with its reason, never a guess. The document is the node's own
word: it decides nothing by itself, and nothing in it is loaded or run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from enginekeeper.fleet.interface import Device, DriverState, LostDevice

SCHEMA = 2
READABLE = (1, SCHEMA)
FIRST_WITH_RUNS = 2
"""The first schema knew no running engines."""


class Evidence(StrEnum):
    """How an engine is known to be on a node."""

    DECLARED = "declared"
    """A record on the node says so, and the bytes were looked at; whether it runs is not known."""

    CONFIRMED = "confirmed"
    """NVML shows that its process, or one that this started, computes on a GPU."""


@dataclass(frozen=True)
class HostFacts:
    """The machine and its operating system."""

    os: str
    """E.g. `linux`."""
    release: str | None
    """E.g. `Debian GNU/Linux 12 (bookworm)`."""
    kernel: str
    cpu_architecture: str
    cpu_model: str | None
    cpus: int
    memory_bytes: int | None
    instruction_set: tuple[str, ...]
    """The flags that bind a compiled engine."""


@dataclass(frozen=True)
class EngineOnDisk:
    """An engine that was put onto the node, and what its bytes are now."""

    engine: str
    """Digest of its manifest."""
    path: str
    placed_at: str
    bytes: str
    """`verified`, or in capitals what is wrong."""
    evidence: Evidence = Evidence.DECLARED


@dataclass(frozen=True)
class EndpointSays:
    """What a server says of itself; its own word, and `declared` at most."""

    source: str
    """The address that was asked."""
    models: tuple[str, ...] = ()
    """Their names there."""
    places: tuple[str, ...] = ()
    """Directories that it says it loaded."""
    agrees: bool | None = None
    """Whether the engine's own is among them; None where it names none."""
    problem: str | None = None
    """Why it said nothing."""


@dataclass(frozen=True)
class Software:
    """A library, a toolkit or a program that lies on the node."""

    name: str
    """E.g. `tensorrt`, `cuda-toolkit`."""
    version: str | None
    """None where its name does not say and it would have to be run."""
    path: str


@dataclass(frozen=True)
class RunningEngine:
    """An engine that a process of the node was started with, and that lives."""

    engine: str
    """Digest of its manifest."""
    path: str
    pid: int
    started_at: str
    evidence: Evidence
    devices: tuple[str, ...] = ()
    """UUIDs of the GPUs, or slices, on which NVML shows it; none where it is only declared."""
    says: EndpointSays | None = None
    """What its server says, where its start named an address."""
    image: str | None = None
    """The container image it runs in, where its start named one: declared, and nothing more."""


@dataclass(frozen=True)
class Inventory:
    """Everything about one node at one time."""

    node: str
    boot_id: str | None
    taken_at: str
    """ISO 8601, UTC, by the node's own clock."""
    agent: str
    """Version of what took it."""
    simulated: bool
    """True where a stand-in answered in NVML's place."""
    host: HostFacts
    driver: DriverState | None
    devices: tuple[Device, ...]
    lost: tuple[LostDevice, ...]
    problem: str | None
    """Why driver and devices could not be read, where they could not."""
    engines: tuple[EngineOnDisk, ...]
    engines_problem: str | None
    """Why the engines could not all be listed."""
    running: tuple[RunningEngine, ...] = ()
    runs_problem: str | None = None
    """Why the run records could not all be read."""
    software: tuple[Software, ...] = ()
    """Toolkits, libraries and container runtimes found on the disk."""
    gpu_source: str = "nvml"
    """Who told of driver and GPUs: `nvml`, `gfd` or `fleet-intelligence`, also with `+dcgm`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the operator calls the node: pool, zone."""
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """Returns the document as JSON values."""
        return asdict(self)
