"""What the fleet needs to know of a node's GPUs, whoever reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

NOT_SUPPORTED = "Not Supported"
"""What NVML says of a value that a GPU does not have: told, not missing."""


@dataclass(frozen=True)
class MigSlice:
    """One MIG device of a GPU that is split."""

    uuid: str
    profile: str
    """E.g. `1g.10gb`."""


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    memory_bytes: int | None
    slice_uuid: str | None = None
    """On which slice of a GPU that is split, where NVML says so."""


@dataclass(frozen=True)
class Device:
    """One GPU as NVML names it; a value that could not be read is None, never a guess."""

    index: int
    uuid: str
    product: str
    compute_capability: str
    """`major.minor`, e.g. `9.0`."""
    memory_bytes: int | None
    mig: bool | None
    vbios: str | None
    gsp_firmware: str | None = None
    serial: str | None = None
    pci: str | None = None
    """Bus id, e.g. `00000000:18:00.0`."""
    ecc: bool | None = None
    ecc_errors: int | None = None
    """Uncorrected ones since the driver was loaded."""
    nvlinks: int | None = None
    """Links that are up."""
    rows_pending: bool | None = None
    """Memory rows wait for a reset to be replaced."""
    rows_failed: bool | None = None
    """A memory row could not be replaced: the GPU is to be exchanged."""
    xid: int | None = None
    """The last error of the driver for it, where somebody listens: NVML itself keeps none."""
    xid_at: str | None = None
    """When that was heard: ISO 8601, UTC, by the node's own clock."""
    slices: tuple[MigSlice, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why each value that is None is: `vbios` to `Not Supported`, and so on."""


@dataclass(frozen=True)
class LostDevice:
    """A GPU that is there and does not answer."""

    index: int
    reason: str


@dataclass(frozen=True)
class DriverState:
    """The driver of a node and the newest CUDA it offers."""

    version: str
    cuda: str
    """CUDA driver API version, `major.minor`."""
    branch: str | None = None
    """The branch as the driver names it, e.g. `r580_00`."""


@dataclass(frozen=True)
class XidEvent:
    """An error that the driver told of a GPU, or why it tells none (`xid` is None then)."""

    uuid: str
    xid: int | None
    at: str
    """ISO 8601, UTC, by this node's clock."""
    why: str | None = None


@dataclass(frozen=True)
class Scan:
    """Every GPU of a node, in NVML's order."""

    devices: tuple[Device, ...] = ()
    lost: tuple[LostDevice, ...] = ()


class Nvml(Protocol):
    """Reads a node's driver and devices."""

    @property
    def simulated(self) -> bool:
        """True where a stand-in answers instead of a driver."""
        ...

    def driver(self) -> DriverState | None:
        """Returns the driver, or None where there is no GPU."""
        ...

    def scan(self) -> Scan:
        """Returns every GPU; one that does not answer is among the lost, and ends nothing."""
        ...


class NullNvml:
    """Says that there is no GPU here."""

    @property
    def simulated(self) -> bool:
        """Returns False: that there is nothing is no simulation."""
        return False

    def driver(self) -> DriverState | None:
        """Returns None: no driver."""
        return None

    def scan(self) -> Scan:
        """Returns no devices."""
        return Scan()
