"""Questions to a catalogue on PostgreSQL, at 1,000, 10,000 and 100,000 engines.

    python benchmarks/catalogue_queries.py [ENGINES ...] [--rounds N]

Starts a PostgreSQL of its own (its settings are PostgreSQL's, but for `fsync = off`, which reading
does not notice), fills a catalogue with ENGINES engines and ten times as many verdicts, and asks:

- resolve: model, channel, GPU, CUDA and driver → engine, signatures verified and the gate asked;
- explain: an engine by the start of its id → the gate's decision with its evidence;
- list: driver branch, compute capability, CUDA, recipe, qualified, the newest 50;
- nearest: the engines nearest to a key that no engine has.

Wall-clock times are of this machine under its load; beside them, what does not depend on the load:
the processor time of the client, and what PostgreSQL itself says of its part (planning included).
The floor: `SELECT 1` on a bare connection, and in a unit of work of the catalogue. The plan of
every statement is looked at: a sequential scan of a table of more than 5,000 rows fails the run,
and so does a p99 of resolve or explain of 10 ms or more at the largest size.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server and the rows are the tests'

import psycopg
from sqlalchemy import event, text

from registry import migrate
from registry.blobs.local import LocalBlobStore
from registry.catalogue import open_catalogue, parse_url
from registry.keys import EngineKey
from registry.service import Registry
from registry.types import EngineFilter
from registry.versions import VersionRange
from tests.factories.bulk_catalogue import Bulk, Filler
from tests.fakes import servers

PROMISED_MS = 10.0
PROMISED = ("resolve", "explain")
_LARGE = 5000  # rows: below that, PostgreSQL rightly reads a table from end to end


@dataclass(frozen=True)
class Asked:
    """A question, and how often it is asked."""

    ask: Callable[[], object]
    times: int


def questions(registry: Registry, bulk: Bulk, bare: psycopg.Connection[Any]) -> dict[str, Asked]:
    """Returns every question; each call asks another instance of it."""
    chosen = random.Random(1)
    listing = EngineFilter(
        recipe="fp8", driver=VersionRange.parse("R580"), cuda=VersionRange.parse("12"),
        compute_capability=VersionRange.parse("9.0"), qualified=True, limit=50,
    )  # fmt: skip

    def unit_of_work() -> None:
        with registry.catalogue.read() as view:
            view._session.execute(text("SELECT 1"))  # noqa: SLF001 - the floor of all the others

    def resolve() -> None:
        found = registry.resolve(*chosen.choice(bulk.resolvable))
        if not found.decision.is_open:
            raise AssertionError(found.decision)

    def explain() -> None:
        environment = chosen.choice(bulk.resolvable)[2]
        registry.gate(chosen.choice(bulk.engines).value[:12], environment)

    def miss() -> None:
        key = registry.engine(chosen.choice(bulk.engines)).key
        registry.nearest(EngineKey(dict(key.hard) | {"tensorrt_llm": "9.9"}, key.soft))

    return {
        "SELECT 1, bare connection": Asked(lambda: bare.execute("SELECT 1").fetchone(), 2000),
        "SELECT 1, unit of work": Asked(unit_of_work, 2000),
        "resolve": Asked(resolve, 2000),
        "explain": Asked(explain, 2000),
        "list by ranges": Asked(lambda: registry.engines(listing), 100),
        "list by ranges, one model": Asked(
            lambda: registry.engines(replace(listing, model=chosen.choice(bulk.models))), 200
        ),
        "nearest": Asked(miss, 30),
    }


@contextmanager
def catalogue_of(server: str, engines: int) -> Iterator[tuple[Registry, Bulk, str]]:
    """Gives a registry over a catalogue of so many engines."""
    with servers.database(server, f"bulk_{engines}") as url:
        migrate.upgrade(url)
        start = time.perf_counter()
        bulk = Filler(url, engines).fill()
        print(f"{engines} engines in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        catalogue = open_catalogue(url)
        store = LocalBlobStore(Path(os.environ.get("TMPDIR", "/tmp")) / "never-read")  # noqa: S108
        yield Registry(catalogue, store, bulk.signers.trust, lambda _key, _where: None), bulk, url
        catalogue.close()


@dataclass(frozen=True)
class Measured:
    """What a question cost."""

    wall: list[float]
    """Milliseconds of each answer."""
    client: float
    """Milliseconds of processor time of the client for one answer, on average."""
    server: float
    """Milliseconds that PostgreSQL says it planned and worked for one answer."""
    scans: list[str]
    """Large tables that were read from end to end."""


def measure(server: str, engines: int, rounds: float) -> dict[str, Measured]:
    """Asks every question of a catalogue of so many engines."""
    with catalogue_of(server, engines) as (registry, bulk, url):
        address = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as bare:
            asked = questions(registry, bulk, bare)
            return {name: measured(registry, one, bare, rounds) for name, one in asked.items()}


def measured(
    registry: Registry, asked: Asked, bare: psycopg.Connection[Any], rounds: float
) -> Measured:
    """Asks a question again and again, after having its plans looked at."""
    for _ in range(10):
        asked.ask()
    working, scans = explained(registry, asked, bare)
    times, before = [], time.process_time()
    for _ in range(max(20, round(asked.times * rounds))):
        start = time.perf_counter()
        asked.ask()
        times.append(1000 * (time.perf_counter() - start))
    client = 1000 * (time.process_time() - before) / len(times)
    return Measured(times, client, working, scans)


def explained(
    registry: Registry, asked: Asked, bare: psycopg.Connection[Any]
) -> tuple[float, list[str]]:
    """Returns PostgreSQL's own milliseconds for one answer, and the large tables it scanned."""
    statements: list[tuple[str, Any]] = []

    def note(_c: object, _k: object, statement: str, parameters: Any, *_: object) -> None:  # noqa: ANN401
        statements.append((statement, parameters))

    engine = registry.catalogue._engine  # noqa: SLF001 - to listen to it
    event.listen(engine, "before_cursor_execute", note)
    asked.ask()
    event.remove(engine, "before_cursor_execute", note)
    working, tables = 0.0, set()
    for statement, parameters in statements:
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode()
        row = bare.execute(explain, parameters).fetchone()
        if row is not None:
            working += row[0][0]["Planning Time"] + row[0][0]["Execution Time"]
            tables |= set(sequential(row[0][0]["Plan"]))
    return working, sorted(tables & large(bare))


def sequential(plan: Mapping[str, Any]) -> Iterator[str]:
    """Yields the tables that a plan reads from end to end."""
    if plan.get("Node Type") == "Seq Scan":
        yield str(plan["Relation Name"])
    for below in plan.get("Plans", []):
        yield from sequential(below)


def large(bare: psycopg.Connection[Any]) -> set[str]:
    """Returns the tables that nobody should read from end to end."""
    rows = bare.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples > %s", [_LARGE]
    )
    return {str(row[0]) for row in rows}


def report(results: Mapping[int, Mapping[str, Measured]]) -> bool:
    """Prints the table; says whether what is promised holds at the largest size."""
    heads = " | ".join(f"{size:,} engines: p50, p99 (client, server)" for size in results)
    print(f"| milliseconds | {heads} |")
    print("|---|" + "--:|" * len(results))
    for name in next(iter(results.values())):
        cells = [
            f"{part(one, 50):.2f}, {part(one, 99):.2f} ({one.client:.1f}, {one.server:.1f})"
            for one in (of_size[name] for of_size in results.values())
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    last = results[max(results)]
    return all(part(last[name], 99) < PROMISED_MS for name in PROMISED)


def part(one: Measured, hundredth: int) -> float:
    """Returns a percentile of the wall-clock times."""
    return statistics.quantiles(one.wall, n=100)[hundredth - 1]


def main() -> int:
    """Measures every size in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engines", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=float, default=1.0, help="share of the usual repetitions")
    options = parser.parse_args()
    load, results = os.getloadavg()[0], {}
    with servers.postgresql() as server:
        for size in options.engines:
            results[size] = measure(server, size, options.rounds)
    kept = report(results)
    scans = [
        f"{size}: {name}: {', '.join(one.scans)}"
        for size, of_size in results.items()
        for name, one in of_size.items()
        if one.scans
    ]
    for one in scans:
        print(f"read from end to end: {one}")
    print(f"load before {load:.1f}, after {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    return 0 if kept and not scans else 1


if __name__ == "__main__":
    sys.exit(main())
