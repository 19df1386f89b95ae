"""Simulated nodes in the catalogue, for demonstrations and measurements: enrolled as such.

Their reports go the way of every report, from the document on. Each pool is alike but for a few
nodes: of a hundred, five have the driver of the next pool, two lack an engine, one has changed
bytes, one has lost a GPU. Nothing speaks for these nodes: they are stale unless made again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from enginekeeper import __version__
from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.interface import Device, DriverState, LostDevice
from enginekeeper.fleet.inventory import EngineOnDisk, HostFacts, Inventory
from enginekeeper.fleet.placements import INTACT
from enginekeeper.fleet.profiles import report_of
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.fleet.wire import state_of
from registry.catalogue import Catalogue
from registry.fleet.types import Beat, Node, NodeReport

GPUS = 8
_HOST = HostFacts("linux", "Ubuntu 24.04", "6.8.0", "x86_64", "simulated", 192, 2**41, ("avx2",))
_PLACED = "2026-11-26T00:00:00+00:00"
_TOGETHER = 500
_OTHER_DRIVER, _LACKS, _CHANGED, _LOST = range(5), range(5, 7), (7,), (8,)


@dataclass(frozen=True)
class SimulatedPool:
    """Nodes that are made alike."""

    name: str
    kind: GpuKind
    driver: DriverState
    next_driver: DriverState
    engines: tuple[str, ...]
    """Digests."""


@dataclass(frozen=True)
class SimulatedFleet:
    """What was made."""

    tokens: dict[str, str]
    """Of the nodes that are new, by name."""
    reported: int
    """Nodes, new ones and others; without those that were retired."""


def inventory_of(pool: SimulatedPool, node: str, number: int, now: datetime) -> dict[str, Any]:
    """Returns the document of a simulated node; its number says in what it is not alike."""
    odd = number % 100
    document = dict(_template(pool, min(odd, 9)))
    devices = [{**one, "uuid": f"GPU-{node}-{one['index']}"} for one in document["devices"]]
    return {**document, "node": node, "taken_at": now.isoformat(), "devices": devices}


def simulate(
    catalogue: Catalogue,
    pools: Sequence[SimulatedPool],
    count: int,
    now: datetime,
    *,
    prefix: str = "sim",
) -> SimulatedFleet:
    """Enrols and reports so many nodes, evenly over pools; raises InputError for a real one's name.

    Nodes that are there report again, so that they were heard now; those that were retired do not.
    """
    names = [f"{prefix}-{number:06d}" for number in range(count)]
    with catalogue.read() as view:
        there = {one.name: one for one in view.fleet.nodes(retired=True)}
    real = [name for name in names if name in there and not there[name].simulated]
    if real:
        raise InputError(
            "a node of this name is no simulated one", where=f"prefix {prefix}", actual=real[0],
            expected="names that no real node has", remedy="name another prefix",
        )  # fmt: skip
    tokens = {name: make_token(name) for name in names if name not in there}
    if tokens:
        with catalogue.edit() as draft:
            digests = {name: token_digest(token) for name, token in tokens.items()}
            draft.fleet.enroll_simulated(digests, labels={}, at=now)
    with catalogue.read() as view:
        nodes = {one.name: one for one in view.fleet.nodes()}
    speaking = [nodes[name] for name in names if name in nodes]
    for portion in _portions(pools, speaking, now):
        with catalogue.edit() as draft:
            draft.fleet.take(portion, now)
    return SimulatedFleet(tokens, len(speaking))


def _portions(
    pools: Sequence[SimulatedPool], nodes: Sequence[Node], now: datetime
) -> Iterator[list[NodeReport]]:
    for start in range(0, len(nodes), _TOGETHER):
        yield [
            _report(pools[number % len(pools)], node, number // len(pools), now)
            for number, node in enumerate(nodes[start : start + _TOGETHER], start)
        ]


def _report(pool: SimulatedPool, node: Node, number: int, now: datetime) -> NodeReport:
    document = inventory_of(pool, node.name, number, now)
    like = _template_report(pool, min(number % 100, 9))
    text = json.dumps(document, separators=(",", ":")).encode()
    beat = Beat(node.id, now, node.sequence + 1, "simulated", (), 0)
    devices = tuple(
        type(one)(f"GPU-{node.name}-{one.position}", one.position, one.product,
                  one.compute_capability)
        for one in like.devices
    )  # fmt: skip
    return NodeReport(
        beat, state_of(document), like.driver, like.profile, like.engines, devices,
        zlib.compress(text, 1),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _template_report(pool: SimulatedPool, odd: int) -> NodeReport:
    moment = datetime.fromisoformat(_PLACED)
    return report_of(_inventory(pool, odd), b"", "", Beat(0, moment, 0, None, (), 0))


@lru_cache(maxsize=4096)
def _template(pool: SimulatedPool, odd: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(_inventory(pool, odd).as_dict()))
    return found


def _inventory(pool: SimulatedPool, odd: int) -> Inventory:
    engines = pool.engines[:-1] if odd in _LACKS else pool.engines
    devices = tuple(
        Device(
            index, f"GPU-{index}", pool.kind.product, pool.kind.compute_capability, 80 * 2**30,
            mig=False, vbios="96.00",
        )
        for index in range(GPUS - (odd in _LOST))
    )  # fmt: skip
    return Inventory(
        node="template",
        boot_id="simulated",
        taken_at=_PLACED,
        agent=__version__,
        simulated=True,
        host=_HOST,
        driver=pool.next_driver if odd in _OTHER_DRIVER else pool.driver,
        devices=devices,
        lost=(LostDevice(GPUS - 1, "GPU is lost"),) if odd in _LOST else (),
        problem=None,
        engines=tuple(
            EngineOnDisk(one, f"/engines/{at}", _PLACED,
                         "CHANGED" if odd in _CHANGED and at == 0 else INTACT)
            for at, one in enumerate(engines)
        ),
        engines_problem=None,
        labels={"pool": pool.name},
    )  # fmt: skip
