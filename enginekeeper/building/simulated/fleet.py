"""The simulated fleet: eight GPUs of each product in the table, all under one driver."""

from __future__ import annotations

from dataclasses import dataclass

from enginekeeper.specs.gpus import GpuProduct, gpu_products

DRIVER = "580.95.05"
"""The first driver branch for CUDA 13 (docs.nvidia.com/deploy/cuda-compatibility): it runs what
every release was built with."""

EACH = 8
"""GPUs of a product, as many as most hosts have."""

_PREFIX = "GPU-SIMULATED-"


@dataclass(frozen=True)
class SimulatedGpu:
    """One GPU of the fleet."""

    index: int
    product: GpuProduct
    number: int = 0
    """Of the GPUs of its product, from 0 on."""

    @property
    def uuid(self) -> str:
        """Its UUID, which names the product, so that whoever is given it knows what it is."""
        return f"{_PREFIX}{self.product.name}" + (f".{self.number}" if self.number else "")


def simulated_gpus() -> tuple[SimulatedGpu, ...]:
    """Returns the fleet, in the table's order."""
    return tuple(
        SimulatedGpu(place * EACH + number, product, number)
        for place, product in enumerate(gpu_products().values())
        for number in range(EACH)
    )


def gpu_of_uuid(uuid: str) -> GpuProduct | None:
    """Returns the product of a GPU of the fleet; None for any other UUID."""
    return next((one.product for one in simulated_gpus() if one.uuid == uuid), None)
