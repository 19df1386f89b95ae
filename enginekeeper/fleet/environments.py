"""The environments that engines meet on a node: its kinds of GPU, under its driver.

A GPU that is split offers its slices, each as an environment of its own, and not itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from enginekeeper.fleet.interface import Device, DriverState
from registry.environments import GpuEnvironment
from registry.keys import EngineKey


@dataclass(frozen=True, order=True)
class GpuKind:
    """GPUs that are alike to an engine."""

    product: str
    compute_capability: str
    mig_profile: str | None = None

    def under(self, driver: DriverState, cuda_runtime: str) -> GpuEnvironment:
        """Returns the environment that it is under a driver, for engines of one runtime."""
        return GpuEnvironment(
            self.product, self.compute_capability, cuda_runtime, driver.cuda, driver.version,
            self.mig_profile,
        )  # fmt: skip


def kinds_of(devices: Iterable[Device]) -> tuple[GpuKind, ...]:
    """Returns the kinds among devices, each once, in the devices' order."""
    found: dict[GpuKind, None] = {}
    for device in devices:
        profiles = [one.profile for one in device.slices] if device.mig else [None]
        for profile in profiles:
            found[GpuKind(device.product, device.compute_capability, profile)] = None
    return tuple(found)


def meant_for(key: EngineKey, kinds: Sequence[GpuKind]) -> tuple[GpuKind, ...]:
    """Returns the kinds that an engine was built for; all of them where it was built for none.

    Which GPU of a mixed node an engine runs on is not known: one that fits is assumed, since
    it could not have run on another.
    """
    fitting = tuple(
        kind
        for kind in kinds
        if kind.product == key.hard.get("gpu_product")
        and kind.mig_profile == key.hard.get("mig_profile")
    )
    same_product = tuple(kind for kind in kinds if kind.product == key.hard.get("gpu_product"))
    return fitting or same_product or tuple(kinds)


def missing_for(key: EngineKey, kinds: Sequence[GpuKind]) -> bool:
    """Says whether none of the kinds is the product and the slice an engine was built for."""
    hard = key.hard
    return not any(
        (kind.product, kind.mig_profile) == (hard.get("gpu_product"), hard.get("mig_profile"))
        for kind in kinds
    )


def runtime_of(key: EngineKey, driver: DriverState) -> str:
    """Returns the CUDA runtime an engine brings along; that of the driver where it names none."""
    return str(key.hard.get("cuda_runtime", driver.cuda))
