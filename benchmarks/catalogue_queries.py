"""Questions to a catalogue on PostgreSQL, at 1,000, 10,000 and 100,000 engines.

    python benchmarks/catalogue_queries.py [ENGINES ...] [--rounds N] [--directory DIR]

Starts a PostgreSQL of its own (its settings are PostgreSQL's, but for `fsync = off`, which reading
does not notice), fills a catalogue with ENGINES engines and ten times as many verdicts, and asks;
with --directory both stay there, and the next run asks the same catalogue without filling it:

- resolve: model, channel, GPU, CUDA and driver → engine, signatures verified and the gate asked;
- explain: an engine by the start of its id, where it was judged → the gate's decision with its
  evidence;
- resolve once more, the same question each time, and as the first one of a process (opening the
  catalogue included): nothing of an answer is kept, so the former costs as much as another one;
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
import itertools
import json
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
from sqlalchemy.engine import Engine as Database

from registry import migrate
from registry.blobs.local import LocalBlobStore
from registry.catalogue import open_catalogue, parse_url
from registry.digests import Digest
from registry.keys import EngineKey
from registry.service import Registry
from registry.types import EngineFilter
from registry.versions import VersionRange
from tests.factories.bulk_catalogue import VERDICTS, Bulk, Filler
from tests.fakes import servers

PROMISED_MS = 10.0
PROMISED = ("resolve", "explain")
_LARGE = 5000  # rows: below that, PostgreSQL rightly reads a table from end to end


@dataclass(frozen=True)
class Asked:
    """A question, and how often it is asked."""

    ask: Callable[[], object]
    times: int


def questions(
    registry: Registry, bulk: Bulk, bare: psycopg.Connection[Any], url: str
) -> dict[str, Asked]:
    """Returns every question; each call asks another instance of it, where not said otherwise."""
    chosen = random.Random(1)
    turns = itertools.cycle(chosen.sample(range(len(bulk.resolvable)), len(bulk.resolvable)))
    listing = EngineFilter(
        recipe="fp8", driver=VersionRange.parse("R580"), cuda=VersionRange.parse("12"),
        compute_capability=VersionRange.parse("9.0"), qualified=True, limit=50,
    )  # fmt: skip

    def unit_of_work() -> None:
        with registry.catalogue.read() as view:
            view._session.execute(text("SELECT 1"))  # noqa: SLF001 - the floor of all the others

    def resolve(turn: int, by: Registry = registry) -> None:
        found = by.resolve(*bulk.resolvable[turn])
        if not found.decision.is_open:
            raise AssertionError(found.decision)

    def explain() -> None:
        turn = next(turns)
        decision = registry.gate(_engine(bulk, turn).value[:12], bulk.resolvable[turn][2])
        if not decision.is_open:
            raise AssertionError(decision)

    def first() -> None:
        with open_registry(url, bulk) as fresh:
            resolve(next(turns), fresh)

    def miss() -> None:
        key = registry.engine(chosen.choice(bulk.engines)).key
        registry.nearest(EngineKey(dict(key.hard) | {"tensorrt_llm": "9.9"}, key.soft))

    return {
        "SELECT 1, bare connection": Asked(lambda: bare.execute("SELECT 1").fetchone(), 2000),
        "SELECT 1, unit of work": Asked(unit_of_work, 2000),
        "resolve": Asked(lambda: resolve(next(turns)), 2000),
        "explain": Asked(explain, 2000),
        "resolve, the same again": Asked(lambda: resolve(0), 500),
        "resolve, first of a process": Asked(first, 50),
        "list by ranges": Asked(lambda: registry.engines(listing), 100),
        "list by ranges, one model": Asked(
            lambda: registry.engines(replace(listing, model=chosen.choice(bulk.models))), 200
        ),
        "nearest": Asked(miss, 30),
    }


def _engine(bulk: Bulk, turn: int) -> Digest:
    """Returns the engine that was judged where a question asks."""
    return bulk.engines[turn // VERDICTS]


@contextmanager
def filled(server: str, engines: int, kept: Path | None) -> Iterator[tuple[str, Bulk]]:
    """Gives a catalogue of so many engines: one that was kept, or a new one."""
    name = f"bulk_{engines}"
    note = None if kept is None else kept / f"{name}.json"
    if note is not None and note.exists():
        url = servers.address(server, name)
        migrate.upgrade(url)
        yield url, Bulk.from_dict(json.loads(note.read_text()))
        return
    with servers.database(server, name, kept=note is not None) as url:
        migrate.upgrade(url)
        start = time.perf_counter()
        bulk = Filler(url, engines).fill()
        print(f"{engines} engines in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        if note is not None:
            note.write_text(json.dumps(bulk.as_dict()))
        yield url, bulk


@contextmanager
def catalogue_of(
    server: str, engines: int, kept: Path | None
) -> Iterator[tuple[Registry, Bulk, str]]:
    """Gives a registry over a catalogue of so many engines."""
    with filled(server, engines, kept) as (url, bulk), open_registry(url, bulk) as registry:
        yield registry, bulk, url


@contextmanager
def open_registry(url: str, bulk: Bulk) -> Iterator[Registry]:
    """Opens a registry over a filled catalogue; its store is never read."""
    catalogue = open_catalogue(url)
    store = LocalBlobStore(Path(os.environ.get("TMPDIR", "/tmp")) / "never-read")  # noqa: S108
    yield Registry(catalogue, store, bulk.trust, lambda _key, _where: None)
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
    statements: int
    """How many an answer takes."""


def measure(server: str, engines: int, rounds: float, kept: Path | None) -> dict[str, Measured]:
    """Asks every question of a catalogue of so many engines."""
    with catalogue_of(server, engines, kept) as (registry, bulk, url):
        address = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as bare:
            asked = questions(registry, bulk, bare, url)
            return {name: measured(one, bare, rounds) for name, one in asked.items()}


def measured(asked: Asked, bare: psycopg.Connection[Any], rounds: float) -> Measured:
    """Asks a question again and again, after having its plans looked at."""
    for _ in range(10):
        asked.ask()
    working, scans, many = explained(asked, bare)
    times, before = [], time.process_time()
    for _ in range(max(20, round(asked.times * rounds))):
        start = time.perf_counter()
        asked.ask()
        times.append(1000 * (time.perf_counter() - start))
    client = 1000 * (time.process_time() - before) / len(times)
    return Measured(times, client, working, scans, many)


def explained(asked: Asked, bare: psycopg.Connection[Any]) -> tuple[float, list[str], int]:
    """Returns PostgreSQL's own milliseconds for one answer, large tables it scanned, statements."""
    statements: list[tuple[str, Any]] = []

    def note(_c: object, _k: object, statement: str, parameters: Any, *_: object) -> None:  # noqa: ANN401
        statements.append((statement, parameters))

    event.listen(Database, "before_cursor_execute", note)
    asked.ask()
    event.remove(Database, "before_cursor_execute", note)
    working, tables = 0.0, set()
    for statement, parameters in statements:
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode()
        row = bare.execute(explain, parameters).fetchone()
        if row is not None:
            working += row[0][0]["Planning Time"] + row[0][0]["Execution Time"]
            tables |= set(sequential(row[0][0]["Plan"]))
    return working, sorted(tables & large(bare)), len(statements)


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
    heads = " | ".join(
        f"{size:,} engines: p50, p99 (client, server; statements)" for size in results
    )
    print(f"| milliseconds | {heads} |")
    print("|---|" + "--:|" * len(results))
    for name in next(iter(results.values())):
        cells = [
            f"{part(one, 50):.2f}, {part(one, 99):.2f}"
            f" ({one.client:.1f}, {one.server:.1f}; {one.statements})"
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
    parser.add_argument("--directory", type=Path, help="keeps the server, to ask it again")
    options = parser.parse_args()
    load, results = os.getloadavg()[0], {}
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
    with servers.postgresql(directory=options.directory) as server:
        for size in options.engines:
            results[size] = measure(server, size, options.rounds, options.directory)
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
