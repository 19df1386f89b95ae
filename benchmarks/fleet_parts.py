"""What `fleet.py` measures in its own process: look-ups, sweeps, and what the ingest takes.

Each figure stands beside its promise, and beside what nothing of ours is in: SQL on a bare
connection, or the least that a message needs.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from fleet_world import Figure, World

from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.whereabouts import Question, whereabouts
from enginekeeper.fleet.wire import Wish
from enginekeeper.orchestration.drift_report import drift_of
from enginekeeper.orchestration.fleet_reading import plan_of
from enginekeeper.orchestration.waves import DriverChange

LOOK_UPS, TOGETHER = 500, 200
P99_MS, DRIFT_MS, WAVE_MS, BEATS, INVENTORIES = 5.0, 300.0, 2000.0, 5000, 1000
_PLACED = (
    "SELECT n.name, p.engine, p.path, p.bytes, p.running, p.devices, p.since, f.driver, h.seen_at"
    " FROM node_placements p JOIN nodes n ON n.id = p.node_id"
    " JOIN node_heartbeats h ON h.node_id = n.id JOIN node_profiles f ON f.id = n.profile_id"
    " WHERE p.until IS NULL AND "
)
_BY_ENGINE, _BY_NODE = f"{_PLACED} p.engine = %s", f"{_PLACED} n.name = %s"
_COUNTED = "SELECT profile_id, engine_set_id, count(*) FROM nodes GROUP BY 1, 2"
_COUNTED_PLACEMENTS = (
    "SELECT p.engine, f.driver, count(*) FROM node_placements p JOIN nodes n ON n.id = p.node_id"
    " JOIN node_profiles f ON f.id = n.profile_id WHERE p.until IS NULL GROUP BY 1, 2"
)
_ROWS = (
    "SELECT min(n), max(n) FROM (SELECT count(*) AS n FROM node_placements"
    " WHERE until IS NULL GROUP BY engine) AS counted"
)
_NODES = "SELECT name, profile_id, engine_set_id FROM nodes ORDER BY name"
_KEPT = "UPDATE node_documents SET document = %s WHERE node_id = %s"


def milliseconds(ask: Callable[[], object], times: int) -> tuple[list[float], float]:
    """Asks again and again; returns the times, and this process's own part of one, in ms."""
    for _ in range(5):
        ask()  # the first ones compile statements
    taken, processor = [], time.process_time()
    for _ in range(times):
        start = time.perf_counter()
        ask()
        taken.append(1000 * (time.perf_counter() - start))
    return taken, 1000 * (time.process_time() - processor) / times


def look_ups(world: World) -> Iterator[Figure]:
    """Measures what one asks about a node, an engine, a GPU."""
    chance, now = world.chance, datetime.now(UTC)
    engines = sorted({one for pool in world.pools for one in pool.engines})
    later = now + timedelta(seconds=1)

    def asking(make: Callable[[], Question]) -> Callable[[], object]:
        def ask() -> object:
            with world.registry.catalogue.read() as view:
                return whereabouts(view, make(), now)

        return ask

    def node() -> object:
        with world.registry.catalogue.read() as view:
            found = view.fleet.node(chance.choice(world.names))
            return view.fleet.devices(found), view.fleet.engines_on(found)

    asked: dict[str, Callable[[], object]] = {
        "where --engine": asking(lambda: Question(engine=chance.choice(engines))),
        "where --node": asking(lambda: Question(node=chance.choice(world.names))),
        "where --gpu-uuid": asking(
            lambda: Question(gpu_uuid=f"GPU-{chance.choice(world.names)}-{chance.randrange(7)}")
        ),
        "where --node --at": asking(lambda: Question(node=chance.choice(world.names), at=later)),
        "a node, its GPUs and engines": node,
    }
    with world.bare() as bare:
        raw = {
            sql: milliseconds(
                lambda sql=sql, some=some: bare.execute(sql, [chance.choice(some)]).fetchall(),
                LOOK_UPS,
            )[0]
            for sql, some in ((_BY_ENGINE, engines), (_BY_NODE, world.names))
        }
        ((least, most),) = bare.execute(_ROWS).fetchall()
    for name, ask in asked.items():
        taken, own = milliseconds(ask, LOOK_UPS)
        part = statistics.quantiles(taken, n=100)
        floor = statistics.median(raw[_BY_ENGINE if name == "where --engine" else _BY_NODE])
        rows = f"; {least} to {most} rows" if name == "where --engine" else ""
        yield Figure(
            name, part[98], "ms",
            f"p50 {part[49]:.2f}, p99 {part[98]:.2f} ms; own {own:.2f} ms{rows}",
            "p99 < 5 ms", part[98] < P99_MS, f"raw SQL, p50 {floor:.2f} ms", part[49] / floor,
        )  # fmt: skip


def drift(world: World) -> Iterator[Figure]:
    """Measures the drift of the whole fleet, in numbers, and with every signature checked."""
    now = datetime.now(UTC)
    raw = _raw(world, _COUNTED), _raw(world, _COUNTED_PLACEMENTS)
    taken, own = milliseconds(lambda: drift_of(world.registry, now, verified=False).summary(), 10)
    states = drift_of(world.registry, now, verified=False).summary()["states"]
    middle = statistics.median(taken)
    yield Figure(
        "drift summary", middle, "ms",
        f"{middle:.0f} ms, worst {max(taken):.0f}; own {own:.0f} ms; {states} states",
        "< 300 ms", middle < DRIFT_MS,
        f"raw group-by: nodes {raw[0]:.0f} ms, placements {raw[1]:.0f} ms", middle / raw[1],
    )  # fmt: skip
    start = time.perf_counter()
    drift_of(world.registry, now, verified=True)
    passed = 1000 * (time.perf_counter() - start)
    yield Figure("drift, signatures checked", passed, "ms", f"{passed / 1000:.2f} s")


def wave(world: World) -> Iterator[Figure]:
    """Measures a plan over the whole fleet, signatures of its engines checked."""
    change = DriverChange.to("595.71.05", on=datetime.now(UTC).date())
    raw = _raw(world, _NODES)
    plan = plan_of(world.registry, (), (), change)
    taken, own = [], time.process_time()
    for _ in range(3):
        start = time.perf_counter()
        plan_of(world.registry, (), (), change)
        taken.append(1000 * (time.perf_counter() - start))
    own = (time.process_time() - own) / 3
    middle = statistics.median(taken)
    yield Figure(
        "wave plan", middle, "ms",
        f"{middle / 1000:.2f} s; own {own:.2f} s; {len(plan.groups)} groups",
        "< 2 s", middle < WAVE_MS, f"raw SQL that names every node, {raw:.0f} ms", middle / raw,
    )  # fmt: skip


def _raw(world: World, sql: str) -> float:
    with world.bare() as bare:
        taken, _ = milliseconds(lambda: bare.execute(sql.encode()).fetchall(), 5)
    return statistics.median(taken)


def heartbeats(world: World, seconds: float) -> Iterator[Figure]:
    """Measures heartbeats without news through the ingest, everything that is written included."""
    ingest = Ingest(world.registry.catalogue)
    start = time.perf_counter()
    ingest.load()
    passed = 1000 * (time.perf_counter() - start)
    yield Figure("the server learns every node", passed, "ms", f"{passed / 1000:.2f} s")
    world.learn()
    floor = _least(world.beat(world.names[0]), world.tokens[world.names[0]])
    taken, written, began, speaking = 0, time.perf_counter(), time.perf_counter(), 0.0
    processor = time.process_time()
    while (passed := time.perf_counter() - began - speaking) < seconds:
        before = time.perf_counter()
        names = [world.names[at % len(world.names)] for at in range(taken, taken + 100)]
        said = [(world.tokens[name], world.beat(name)) for name in names]
        speaking += time.perf_counter() - before  # what agents do is not the server's
        for token, body in said:
            if ingest.heartbeat(token, body)[1] is not Wish.KNOWN:
                raise AssertionError(token)
        taken += len(said)
        if time.perf_counter() - written >= 1:
            written = time.perf_counter()
            ingest.write(ingest.heard())
    ingest.write(ingest.heard())
    passed = time.perf_counter() - began - speaking
    share = (time.process_time() - processor) / (passed + speaking)
    rate = taken / passed
    yield Figure(
        "heartbeats through ingest", rate, "/s", f"{rate:,.0f}/s; {share:.0%} of a core",
        "5,000/s", rate >= BEATS, f"parse the JSON and hash the token, {floor:,.0f}/s",
        floor / rate,
    )  # fmt: skip


def inventories(world: World, seconds: float) -> Iterator[Figure]:
    """Measures changed inventories through the ingest, committed 200 together."""
    ingest = Ingest(world.registry.catalogue)
    ingest.load()
    world.learn()
    floor = _raw_inventories(world)
    taken, passed, own = 0, 0.0, 0.0
    while passed < seconds:
        numbers = [at % len(world.names) for at in range(taken, taken + TOGETHER)]
        bodies = [world.changed(at) for at in dict.fromkeys(numbers)]
        start, processor = time.perf_counter(), time.process_time()
        offered = [ingest.offer(world.tokens[name], body) for name, body in bodies]
        for one, what in zip(offered, ingest.take(offered), strict=True):
            if not ingest.settle(one, what):
                raise AssertionError(one.speaker.name)
        passed += time.perf_counter() - start
        own += time.process_time() - processor
        taken += len(bodies)
    rate = taken / passed
    yield Figure(
        "changed inventories through ingest", rate, "/s",
        f"{rate:,.0f}/s; own {1000 * own / taken:.2f} ms each",
        "1,000/s", rate >= INVENTORIES,
        f"parse, compress, hash, and one raw UPDATE each, {floor:,.0f}/s", floor / rate,
    )  # fmt: skip


def _least(body: bytes, token: str) -> float:
    """Returns how many heartbeats a second this machine could look at, if that were all."""
    start = time.perf_counter()
    for _ in range(20_000):
        json.loads(body)
        hashlib.sha256(token.encode()).hexdigest()
    return 20_000 / (time.perf_counter() - start)


def _raw_inventories(world: World) -> float:
    """Returns how many inventories a second could be parsed, hashed and updated, and no more."""
    with world.bare() as bare:
        rows = bare.execute("SELECT node_id FROM node_documents LIMIT 1000").fetchall()
        bodies = [(row, world.changed(at)[1]) for at, (row,) in enumerate(rows)]
        world.learn()
        start = time.perf_counter()
        for at in range(0, len(bodies), TOGETHER):
            given = []
            for row, body in bodies[at : at + TOGETHER]:
                json.loads(body)
                hashlib.sha256(body).hexdigest()
                given.append((zlib.compress(body, 1), row))
            with bare.transaction(force_rollback=True), bare.cursor() as cursor:
                cursor.executemany(_KEPT, given)
        return len(bodies) / (time.perf_counter() - start)
