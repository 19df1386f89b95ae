"""The simulated fleet: one GPU of each product in the table, all under one driver."""

from __future__ import annotations

from dataclasses import dataclass

from enginekeeper.specs.gpus import GpuProduct, gpu_products

DRIVER = "580.95.05"
"""The first driver branch for CUDA 13 (docs.nvidia.com/deploy/cuda-compatibility): it runs what
every release was built with."""

_PREFIX = "GPU-SIMULATED-"


@dataclass(frozen=True)
class SimulatedGpu:
    """One GPU of the fleet."""

    index: int
    product: GpuProduct

    @property
    def uuid(self) -> str:
        """Its UUID, which names the product, so that whoever is given it knows what it is."""
        return f"{_PREFIX}{self.product.name}"


def simulated_gpus() -> tuple[SimulatedGpu, ...]:
    """Returns the fleet, in the table's order."""
    return tuple(SimulatedGpu(index, one) for index, one in enumerate(gpu_products().values()))


def gpu_of_uuid(uuid: str) -> GpuProduct | None:
    """Returns the product of a GPU of the fleet; None for any other UUID."""
    return gpu_products().get(uuid.removeprefix(_PREFIX)) if uuid.startswith(_PREFIX) else None
