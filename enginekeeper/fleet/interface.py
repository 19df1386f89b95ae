"""What the fleet needs to know of a node's GPUs, whoever reports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Device:
    """One GPU as NVML names it; a value NVML does not support is None, never a guess."""

    index: int
    uuid: str
    product: str
    compute_capability: str
    """`major.minor`, e.g. `9.0`."""
    memory_bytes: int
    mig: bool | None
    vbios: str | None


@dataclass(frozen=True)
class DriverState:
    """The driver of a node and the newest CUDA it offers."""

    version: str
    cuda: str
    """CUDA driver API version, `major.minor`."""


class Nvml(Protocol):
    """Reads a node's driver and devices."""

    def driver(self) -> DriverState | None:
        """Returns the driver, or None where there is no GPU."""
        ...

    def devices(self) -> tuple[Device, ...]:
        """Returns every GPU of the node, in NVML's order."""
        ...


class NullNvml:
    """Says that there is no GPU here."""

    def driver(self) -> DriverState | None:
        """Returns None: no driver."""
        return None

    def devices(self) -> tuple[Device, ...]:
        """Returns no devices."""
        return ()
