"""The fleet's server on PostgreSQL: look-ups, drift, waves, and what agents can say in a second.

    python benchmarks/fleet.py [NODES ...] [--seconds S]

For each size (1,000, 10,000 and 100,000 unless told otherwise) a PostgreSQL of its own gets 1,200
signed engines with ten verdicts each, NODES simulated nodes of eight GPUs in pools of 250, three
engines on each, and three assignments to each pool; eleven in a hundred nodes are otherwise than
they should be. Then, through the whole code path:

- `where` by engine, by node, by GPU, by node at a time; all that is known of one node; in brackets
  the processor time of this process, which does not depend on the load;
- the drift summary of the fleet, and a wave plan over all of it with every signature checked;
- heartbeats without news through the ingest in this process, everything that is written included;
- the same and changed inventories over HTTP to a real `ek serve`, with the processor time of the
  server, of PostgreSQL and of this load generator, on one machine with two cores;
- the server killed (SIGKILL) and started again while every agent speaks: what was lost.

PostgreSQL's settings are its own, but for `fsync = off`: a disk that waits for each commit adds
that wait to each portion of inventories and to the one write of heartbeats a second. Fails where a
figure is not as promised.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server and the rows are the tests'

import psycopg

from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.simulation import SimulatedPool, inventory_of, simulate
from enginekeeper.fleet.whereabouts import Question, whereabouts
from enginekeeper.fleet.wire import Heartbeat, InventoryMessage, Wish
from enginekeeper.orchestration.drift_report import drift_of
from enginekeeper.orchestration.fleet_reading import plan_of
from enginekeeper.orchestration.waves import DriverChange
from registry import migrate
from registry.blobs.local import LocalBlobStore
from registry.catalogue import open_catalogue, parse_url
from registry.fleet.types import Assignment
from registry.service import Registry
from tests.factories.bulk_catalogue import DRIVERS, GPUS, VERDICTS, Bulk, Filler
from tests.fakes import servers

ENGINES, POOL, AGENTS, LOOK_UPS = 1200, 250, 64, 500
TICKS = os.sysconf("SC_CLK_TCK")
Row = tuple[str, str, str, bool]
"""What was measured, the figure, what was promised, and whether that was kept."""
PROMISED_MS, PROMISED_SUMMARY_MS, PROMISED_WAVE_S = 5.0, 300.0, 2.0
PROMISED_BEATS, PROMISED_BEATS_HTTP, PROMISED_INVENTORIES = 5000, 1667, 1000


@dataclass
class World:
    """A catalogue with a fleet, and what the agents of it know."""

    url: str
    registry: Registry
    pools: list[SimulatedPool]
    names: list[str]
    tokens: dict[str, str]
    states: dict[str, str] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)

    def pool_of(self, number: int) -> SimulatedPool:
        """Returns the pool of a node by its number."""
        return self.pools[number % len(self.pools)]


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
def world_of(server: str, nodes: int) -> Iterator[World]:
    """Gives a catalogue with a fleet of so many nodes."""
    with servers.database(server, f"fleet_{nodes}") as url:
        migrate.upgrade(url)
        bulk = Filler(url, ENGINES, ENGINES // len(GPUS)).fill()
        catalogue = open_catalogue(url)
        store = LocalBlobStore(Path(tempfile.gettempdir()) / "never-read")
        registry = Registry(catalogue, store, bulk.trust, lambda _key, _where: None)
        pools, start = pools_of(bulk, nodes), time.perf_counter()
        tokens = simulate(catalogue, pools, nodes, datetime.now(UTC)).tokens
        print(f"{nodes} nodes in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        _assign(registry, pools)
        address = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as bare:
            bare.execute("VACUUM ANALYZE")
        yield World(url, registry, pools, list(tokens), tokens)
        catalogue.close()


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


def milliseconds(ask: Callable[[], object], times: int) -> list[float]:
    """Asks again and again, after a few times that do not count."""
    taken = []
    for turn in range(times + 5):
        start = time.perf_counter()
        ask()
        if turn >= 5:  # noqa: PLR2004 - the first ones compile statements
            taken.append(1000 * (time.perf_counter() - start))
    return taken


def look_ups(world: World) -> Iterator[Row]:
    """Measures what one asks about a node, an engine, a GPU."""
    chosen, now = random.Random(1), datetime.now(UTC)
    engines = [one for pool in world.pools for one in pool.engines]
    later = now + timedelta(seconds=1)

    def asking(make: Callable[[], Question]) -> Callable[[], object]:
        def ask() -> object:
            with world.registry.catalogue.read() as view:
                return whereabouts(view, make(), now)

        return ask

    def node() -> object:
        with world.registry.catalogue.read() as view:
            found = view.fleet.node(chosen.choice(world.names))
            return view.fleet.devices(found), view.fleet.engines_on(found)

    asked: dict[str, Callable[[], object]] = {
        "where --engine": asking(lambda: Question(engine=chosen.choice(engines))),
        "where --node": asking(lambda: Question(node=chosen.choice(world.names))),
        "where --gpu-uuid": asking(
            lambda: Question(gpu_uuid=f"GPU-{chosen.choice(world.names)}-{chosen.randrange(7)}")
        ),
        "where --node --at": asking(lambda: Question(node=chosen.choice(world.names), at=later)),
        "a node, its GPUs and engines": node,
    }
    for name, ask in asked.items():
        processor = time.process_time()
        part = statistics.quantiles(milliseconds(ask, LOOK_UPS), n=100)
        own = 1000 * (time.process_time() - processor) / LOOK_UPS
        figure = f"{part[49]:.2f}, p99 {part[98]:.2f} ms ({own:.1f})"
        yield name, figure, "p99 < 5 ms", part[98] < PROMISED_MS


def sweeps(world: World) -> Iterator[Row]:
    """Measures what asks the whole fleet."""
    now = datetime.now(UTC)
    found = milliseconds(lambda: drift_of(world.registry, now, verified=False), 5)
    summary = drift_of(world.registry, now, verified=False).summary()
    yield (
        f"drift summary ({summary['states']} states)", f"{statistics.median(found):.0f} ms",
        "< 300 ms", statistics.median(found) < PROMISED_SUMMARY_MS,
    )  # fmt: skip
    start = time.perf_counter()
    drift_of(world.registry, now, verified=True)
    yield "drift, signatures checked", f"{time.perf_counter() - start:.2f} s", "", True
    change = DriverChange.to("595.71.05", on=now.date())
    start = time.perf_counter()
    plan = plan_of(world.registry, (), (), change)
    passed = time.perf_counter() - start
    name = f"wave plan ({len(plan.groups)} groups)"
    yield name, f"{passed:.2f} s", "< 2 s", passed < PROMISED_WAVE_S


def through_ingest(world: World, seconds: float) -> Iterator[Row]:
    """Measures heartbeats without news and changed inventories in this process."""
    ingest = Ingest(world.registry.catalogue)
    start = time.perf_counter()
    ingest.load()
    yield "the server learns every node", f"{time.perf_counter() - start:.2f} s", "", True
    _learn_states(world)
    taken, written, began = 0, time.perf_counter(), time.perf_counter()
    processor = time.process_time()
    while (passed := time.perf_counter() - began) < seconds:
        name = world.names[taken % len(world.names)]
        _, wish = ingest.heartbeat(world.tokens[name], _beat(world, name))
        if wish is not Wish.KNOWN:
            raise AssertionError(name)
        taken += 1
        if time.perf_counter() - written >= 1:
            written = time.perf_counter()
            ingest.write(ingest.heard())
    ingest.write(ingest.heard())
    passed = time.perf_counter() - began
    share = (time.process_time() - processor) / passed
    figure = f"{taken / passed:,.0f}/s, {share:.0%} of a core"
    yield "heartbeats through ingest", figure, "5,000/s", taken / passed >= PROMISED_BEATS
    yield _changed_through_ingest(world, ingest)


def _changed_through_ingest(world: World, ingest: Ingest) -> Row:
    count = min(2000, len(world.names))
    bodies = [_changed(world, number) for number in range(count)]
    start, processor = time.perf_counter(), time.process_time()
    for at in range(0, count, 200):
        offered = [ingest.offer(world.tokens[name], body) for name, body in bodies[at : at + 200]]
        for one, what in zip(offered, ingest.take(offered), strict=True):
            if not ingest.settle(one, what):
                raise AssertionError(one.speaker.name)
    passed = time.perf_counter() - start
    share = (time.process_time() - processor) / passed
    figure, rate = f"{count / passed:,.0f}/s, {share:.0%} of a core", count / passed
    return "changed inventories through ingest", figure, "1,000/s", rate >= PROMISED_INVENTORIES


def _learn_states(world: World) -> None:
    with world.registry.catalogue.read() as view:
        for one in view.fleet.nodes():
            world.states[one.name], world.sequences[one.name] = str(one.state), one.sequence


def _next(world: World, name: str) -> int:
    world.sequences[name] += 1
    return world.sequences[name]


def _beat(world: World, name: str) -> bytes:
    sequence, now = _next(world, name), datetime.now(UTC)
    return Heartbeat(name, "simulated", sequence, now, world.states[name]).to_bytes()


def _changed(world: World, number: int) -> tuple[str, bytes]:
    """Returns the message of a node whose driver may be another one now."""
    name, odd = world.names[number], time.time_ns() // 1000 % 2 * 9
    document = inventory_of(world.pool_of(number), name, odd, datetime.now(UTC))
    world.states.pop(name, None)
    document["agent"] = f"{time.time_ns()}"  # a digest that was never there
    return name, InventoryMessage(name, "simulated", _next(world, name), document).to_bytes()


async def _speak(
    port: int, requests: Iterator[tuple[str, str, str, bytes]], until: float
) -> tuple[int, int]:
    """Sends requests over one connection, one after the other; returns how many, and the refused.

    As a proxy does in front of the service, with connections that stay open.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = refused = 0
    for method, path, token, body in requests:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in answer.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        content = await reader.readexactly(length)
        sent += 1
        refused += b" 200 " not in answer[:20] or b'"wanted"' in content
        if time.perf_counter() > until:
            break
    writer.close()
    return sent, refused


def over_http(world: World, seconds: float) -> Iterator[Row]:
    """Measures a real server, and what a crash of it loses."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "ENGINEKEEPER_HOME": home, "ENGINEKEEPER_CACHE": home,
            "ENGINEKEEPER_CATALOGUE": world.url,
        }  # fmt: skip
        with servers.fleet_server(environment) as server:
            _learn_states(world)
            beats = _beats(world)
            asyncio.run(_all(server.port, lambda: beats, time.perf_counter() + 2))  # desired states
            yield _loaded("heartbeats over HTTP", server, lambda: beats, seconds,
                          PROMISED_BEATS_HTTP)  # fmt: skip
            changed = _changes(world)
            yield _loaded("changed inventories over HTTP", server, lambda: changed, seconds,
                          PROMISED_INVENTORIES)  # fmt: skip
            server.process.kill()
        with servers.fleet_server(environment) as server:
            yield _after_crash(world, server)


def _beats(world: World) -> Iterator[tuple[str, str, str, bytes]]:
    while True:
        for name in list(world.states):
            yield "POST", "/v1/heartbeat", world.tokens[name], _beat(world, name)


def _changes(world: World) -> Iterator[tuple[str, str, str, bytes]]:
    """Yields changed inventories of the last nodes, so that the first ones go on speaking."""
    while True:
        for number in reversed(range(len(world.names))):
            name, body = _changed(world, number)
            yield "PUT", "/v1/inventory", world.tokens[name], body


async def _all(
    port: int, requests: Callable[[], Iterator[tuple[str, str, str, bytes]]], until: float
) -> tuple[int, int]:
    done = await asyncio.gather(*(_speak(port, requests(), until) for _ in range(AGENTS)))
    return sum(sent for sent, _ in done), sum(refused for _, refused in done)


def _loaded(
    name: str,
    server: servers.FleetServer,
    requests: Callable[[], Iterator[tuple[str, str, str, bytes]]],
    seconds: float,
    promised: int,
) -> Row:
    before, generator = _ticks(server.process.pid), time.process_time()
    start = time.perf_counter()
    sent, refused = asyncio.run(_all(server.port, requests, start + seconds))
    passed = time.perf_counter() - start
    of_server = (_ticks(server.process.pid) - before) / passed
    of_generator = (time.process_time() - generator) / passed
    if refused:
        raise AssertionError(f"{name}: {refused} of {sent} refused\n{server.said()[-2000:]}")
    said = f"{sent / passed:,.0f}/s; server {of_server:.0%}, load generator {of_generator:.0%}"
    return name, f"{said} of a core", f"{promised:,}/s", sent / passed >= promised


def _after_crash(world: World, server: servers.FleetServer) -> Row:
    """Lets every agent speak after a crash; counts those whose inventory was lost."""
    with world.registry.catalogue.read() as view:
        for one in view.fleet.nodes():
            world.states[one.name] = str(one.state)
    once = ((*head, _beat(world, name)) for name in world.names for head in [
        ("POST", "/v1/heartbeat", world.tokens[name])])  # fmt: skip
    start = time.perf_counter()
    sent, lost = asyncio.run(_all(server.port, lambda: once, start + 3600))
    passed = time.perf_counter() - start
    figure = f"{sent:,} in {passed:.0f} s, {lost} lost"
    return "kill -9, start, every agent speaks", figure, "0 lost", not lost


def _ticks(pid: int) -> float:
    """Returns the processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> int:
    """Measures every size in turn, and prints one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nodes", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    options = parser.parse_args()
    found: dict[str, dict[int, str]] = {}
    promised: dict[str, str] = {}
    load, broken = os.getloadavg()[0], 0
    for nodes in options.nodes:
        with servers.postgresql() as server, world_of(server, nodes) as world:
            for measure in (look_ups, sweeps):
                for row in measure(world):
                    broken += _keep(found, promised, nodes, row)
            for timed in (through_ingest, over_http):
                for row in timed(world, options.seconds):
                    broken += _keep(found, promised, nodes, row)
    print(f"| | {' | '.join(f'{one:,} nodes' for one in options.nodes)} | promised |")
    print("|---|" + "--:|" * (len(options.nodes) + 1))
    for name, figures in found.items():
        cells = " | ".join(figures.get(one, "") for one in options.nodes)
        print(f"| {name} | {cells} | {promised[name]} |")
    print(f"\nload before {load:.1f}, after {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    print(f"{broken} figures are not as promised")
    return 1 if broken else 0


def _keep(found: dict[str, dict[int, str]], promised: dict[str, str], nodes: int, row: Row) -> int:
    """Keeps a figure; returns 1 where a promise was not kept."""
    name, figure, wanted, kept = row
    print(f"{nodes}: {name}: {figure}{'' if kept else '  NOT AS PROMISED'}", file=sys.stderr)
    name = name.partition(" (")[0]
    found.setdefault(name, {})[nodes] = figure
    promised[name] = wanted
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
