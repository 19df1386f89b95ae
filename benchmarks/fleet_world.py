"""A fleet in a catalogue of its own for `fleet.py`: filled as by agents, or one that was kept."""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.simulation import SimulatedPool, inventory_of, simulate
from enginekeeper.fleet.wire import Heartbeat, InventoryMessage, state_of
from registry import migrate
from registry.blobs.local import LocalBlobStore
from registry.catalogue import open_catalogue
from registry.fleet.types import Assignment
from registry.service import Registry
from tests.factories.bulk_catalogue import DRIVERS, GPUS, VERDICTS, Bulk, Filler
from tests.fakes import servers

ENGINES, POOL = 1200, 250
SILENT, OTHERS = 100, 10
"""One node in so many is not heard; one changed inventory in so many has another driver."""


@dataclass
class World:
    """A catalogue with a fleet, and what the agents of it know."""

    url: str
    registry: Registry
    pools: list[SimulatedPool]
    tokens: dict[str, str]
    states: dict[str, str] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    """The states of the inventories that were made last."""
    names: list[str] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def learn(self) -> None:
        """Learns what the catalogue has of each node, as its agent knows it."""
        self.names = [*self.tokens]
        with self.registry.catalogue.read() as view:
            for one in view.fleet.nodes():
                self.states[one.name], self.sequences[one.name] = str(one.state), one.sequence

    def beat(self, name: str) -> bytes:
        """Returns the next heartbeat of a node, without news."""
        self.sequences[name] += 1
        sent = Heartbeat(
            name, "simulated", self.sequences[name], datetime.now(UTC), self.states[name]
        )
        return sent.to_bytes()

    def changed(self, number: int) -> tuple[str, bytes]:
        """Returns the next inventory of a node: one that was never there.

        One in ten has another driver, which the service looks at.
        """
        name = self.names[number]
        odd = 0 if self.chance.randrange(OTHERS) == 0 else 9
        pool = self.pools[number % len(self.pools)]
        document = inventory_of(pool, name, odd, datetime.now(UTC))
        document["agent"] = f"{time.time_ns()}"
        self.told[name] = state_of(document)
        self.sequences[name] += 1
        return name, InventoryMessage(name, "simulated", self.sequences[name], document).to_bytes()

    def bare(self) -> psycopg.Connection[Any]:
        """Opens a connection with nothing of ours between."""
        return psycopg.connect(self.url, autocommit=True)


def pools_of(bulk: Bulk, nodes: int) -> list[SimulatedPool]:
    """Makes pools: three engines that passed under the pool's driver, on its GPU."""
    passed: dict[tuple[int, str], list[str]] = {}
    for number, digest in enumerate(bulk.engines):
        for turn in range(VERDICTS):
            driver = bulk.resolvable[number * VERDICTS + turn][2].driver
            passed.setdefault((number % len(GPUS), driver), []).append(str(digest))
    made = []
    for at in range(max(1, nodes // POOL)):
        _, product, capability = GPUS[at % len(GPUS)]
        driver = DRIVERS[at % len(DRIVERS)]
        having = passed[at % len(GPUS), driver]
        engines = tuple(having[(at + turn) % len(having)] for turn in range(3))
        following = DRIVERS[(at + 1) % len(DRIVERS)]
        made.append(
            SimulatedPool(
                f"pool-{at:04d}", GpuKind(product, capability), DriverState(driver, "12.9"),
                DriverState(following, "12.9"), engines,
            )
        )  # fmt: skip
    return made


@contextmanager
def world_of(server: str, nodes: int, kept: Path | None) -> Iterator[World]:
    """Gives a catalogue with a fleet of so many nodes, of which all but a few were heard now."""
    name = f"fleet_{nodes}"
    note = None if kept is None else kept / f"{name}.json"
    with ExitStack() as stack:
        if note is not None and note.exists():
            url = servers.address(server, name)
            migrate.upgrade(url)
            said = json.loads(note.read_text())
            world = _opened(url, Bulk.from_dict(said["bulk"]), nodes, said["tokens"])
        else:
            url = stack.enter_context(servers.database(server, name, kept=note is not None))
            migrate.upgrade(url)
            world = _filled(url, nodes, note)
        stack.callback(world.registry.catalogue.close)
        world.learn()
        _hear(world)
        with world.bare() as bare:
            bare.execute("VACUUM ANALYZE")
        gc.freeze()  # as the server does; and what the agents know is none of it
        stack.callback(gc.unfreeze)
        yield world


def _filled(url: str, nodes: int, note: Path | None) -> World:
    bulk = Filler(url, ENGINES, ENGINES // len(GPUS)).fill()
    world = _opened(url, bulk, nodes, {})
    start, processor = time.perf_counter(), time.process_time()
    catalogue = world.registry.catalogue
    world.tokens.update(simulate(catalogue, world.pools, nodes, datetime.now(UTC)).tokens)
    passed, own = time.perf_counter() - start, time.process_time() - processor
    print(f"{nodes} nodes in {passed:.0f} s, {own:.0f} s of this process", file=sys.stderr)
    _assign(world.registry, world.pools)
    if note is not None:
        note.write_text(json.dumps({"bulk": bulk.as_dict(), "tokens": world.tokens}))
    return world


def _opened(url: str, bulk: Bulk, nodes: int, tokens: dict[str, str]) -> World:
    store = LocalBlobStore(Path(tempfile.gettempdir()) / "never-read")
    registry = Registry(open_catalogue(url), store, bulk.trust, lambda _key, _where: None)
    return World(url, registry, pools_of(bulk, nodes), tokens)


def _assign(registry: Registry, pools: Sequence[SimulatedPool]) -> None:
    with registry.catalogue.read() as view:
        named = view.fleet.engines_named({one for pool in pools for one in pool.engines})
    with registry.catalogue.edit() as draft:
        for pool in pools:
            for engine in pool.engines:
                model = named[engine].model
                draft.fleet.assign(
                    Assignment(f"pool={pool.name}", model, "prod", "bench", datetime.now(UTC))
                )


def _hear(world: World) -> None:
    """Lets all nodes but one in a hundred speak."""
    ingest = Ingest(world.registry.catalogue)
    ingest.load()
    for number, name in enumerate(world.names):
        if number % SILENT:
            ingest.heartbeat(world.tokens[name], world.beat(name))
    ingest.write(ingest.heard())


@dataclass(frozen=True)
class Figure:
    """What was measured, beside what was promised and what is possible."""

    name: str
    value: float
    """Milliseconds, or how many a second; by the unit."""
    unit: str
    said: str
    """The figure with what belongs to it, in words."""
    promise: str = ""
    kept: bool = True
    peer: str = ""
    """What it is held against, in the same run."""
    ratio: float | None = None
    """How many times the peer's cost it has."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the figure as a JSON object."""
        return asdict(self)
