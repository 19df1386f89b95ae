"""Nodes that are not there: inventories for demos and for trying plans, all marked simulated.

The same seed makes the same fleet: a few kinds of GPU under a few drivers, engines on the nodes
whose GPU they were built for, and one node in fifty with something wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from enginekeeper import __version__
from enginekeeper.fleet.interface import Device, DriverState, LostDevice
from enginekeeper.fleet.inventory import EngineOnDisk, Evidence, HostFacts, Inventory, RunningEngine
from enginekeeper.specs.gpus import GpuProduct, gpu_products

_DRIVERS = (
    DriverState("580.95.05", "13.0", "r580_00"),
    DriverState("590.48.01", "13.1", "r590_00"),
    DriverState("570.124.06", "12.8", "r570_00"),
)
_OF_TEN = (6, 3, 1)
"""How many of ten nodes have each driver."""
_PRODUCTS = ("h100-sxm", "a100-sxm-80gb", "l40s", "b200")
_GPUS = 8
_WRONG = 0.02
_MOST = 3  # engines on a node
_HOST = HostFacts(
    os="linux", release="Ubuntu 24.04.1 LTS", kernel="6.8.0", cpu_architecture="x86_64",
    cpu_model="simulated", cpus=192, memory_bytes=2 * 2**40, instruction_set=("avx2", "avx512f"),
)  # fmt: skip


@dataclass(frozen=True)
class FleetOrder:
    """What fleet is wanted."""

    nodes: int
    at: datetime
    prefix: str = "sim"
    seed: int = 1


def made_up_fleet(order: FleetOrder, engines: Mapping[str, Sequence[str]]) -> Iterator[Inventory]:
    """Yields the inventories; `engines` are digests by the product they were built for."""
    table = gpu_products()
    products = [table[name] for name in _PRODUCTS if name in table]
    # whatever engines are there, some nodes can run them
    asked = [one for one in table.values() if one.product in engines and one not in products]
    chance = random.Random(order.seed)  # noqa: S311 - made-up nodes, no secrets
    for number in range(order.nodes):
        kinds = [*products, *asked]
        product = kinds[number % len(kinds)]
        yield _node(f"{order.prefix}-{number:05d}", product, engines, order, chance)


def _node(
    name: str, product: GpuProduct, engines: Mapping[str, Sequence[str]], order: FleetOrder,
    chance: random.Random,
) -> Inventory:  # fmt: skip
    (driver,) = chance.choices(_DRIVERS, _OF_TEN)
    fitting = list(engines.get(product.product, ()))
    chosen = chance.sample(fitting, min(_MOST, len(fitting)))
    wrong = chance.random() < _WRONG
    devices = tuple(_device(name, index, product) for index in range(_GPUS))
    moment = order.at.isoformat(timespec="seconds")
    return Inventory(
        node=name, boot_id=f"simulated-{name}", taken_at=moment, agent=__version__,
        simulated=True, host=_HOST, driver=driver,
        devices=devices[:-1] if wrong else devices,
        lost=(LostDevice(_GPUS - 1, "GPU is lost"),) if wrong else (),
        problem=None, engines_problem=None,
        engines=tuple(EngineOnDisk(one, f"/engines/{at}", moment, "verified")
                      for at, one in enumerate(chosen)),
        running=tuple(
            RunningEngine(one, f"/engines/{at}", 1000 + at, moment, Evidence.CONFIRMED,
                          (devices[at].uuid,))
            for at, one in enumerate(chosen[:1])
        ),
        labels={"pool": product.name, "zone": "abc"[chance.randrange(3)]},
    )  # fmt: skip


def _device(node: str, index: int, product: GpuProduct) -> Device:
    return Device(
        index=index, uuid=f"GPU-{node}-{index}", product=product.product,
        compute_capability=str(product.compute_capability), memory_bytes=product.memory,
        mig=False, vbios="96.00.74.00.01", ecc=True, ecc_errors=0,
    )  # fmt: skip
