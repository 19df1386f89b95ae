"""What the life cycle costs a catalogue on PostgreSQL: deciding what stays, and the audit log.

    python benchmarks/life_cycle.py [ENGINES] [--writers N]

Starts a PostgreSQL of its own (`fsync = off`), fills a catalogue with ENGINES engines, ten times as
many verdicts and the histories of their channels, and measures:

- mark: every engine with the reasons to keep it, which a sweep does once for its plan and again,
  under the lock, for every thousand rows it removes: publishers wait that long;
- write: small changes (a placement each) by one writer and by N at once, each with its entry in
  the audit log, against the same statements without one. Writers wait for each other at the end of
  their unit of work, so this is the ceiling of what the chain lets through;
- verify: the chain that came of it, entries per second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server and the rows are the tests'

from registry import migrate
from registry.audit import verify_chain
from registry.catalogue import Catalogue, open_catalogue
from registry.digests import Digest
from registry.records import Draft
from registry.retention import RetentionPolicy, mark
from registry.types import Placement
from tests.factories.bulk_catalogue import Filler
from tests.fakes import servers

_EACH = 100  # changes of each writer


class _Unlogged(Draft):
    """A draft whose changes are not noted."""

    def write_log(self) -> None:
        """Writes nothing."""


def marks(catalogue: Catalogue) -> tuple[int, int, float]:
    """Returns how many engines there are, how many of them stay, and the seconds to tell."""
    start = time.perf_counter()
    with catalogue.read() as view:
        found = mark(view, RetentionPolicy(grace=timedelta(0)), datetime.now(UTC))
    return len(found), sum(bool(one.reasons) for one in found), time.perf_counter() - start


def writes(url: str, engine: Digest, writers: int, *, logged: bool) -> float:
    """Returns how many changes a second writers at once make, each with its own connections."""

    def write(writer: int) -> None:
        catalogue = open_catalogue(url)
        for number in range(_EACH):
            node = f"{'logged' if logged else 'bare'}-{writers}-{writer}"
            placement = Placement(node, f"/models/{number}", engine, datetime.now(UTC))
            with catalogue.edit(actor=node) as draft:
                if not logged:
                    draft.__class__ = _Unlogged
                draft.add_placement(placement)
        catalogue.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    return writers * _EACH / (time.perf_counter() - start)


@contextmanager
def filled(engines: int) -> Iterator[str]:
    """Gives the address of a catalogue with so many engines."""
    with servers.postgresql() as server, servers.database(server, "life_cycle") as url:
        migrate.upgrade(url)
        Filler(url, engines).fill()
        yield url


def main() -> None:
    """Measures and prints one line for each question."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engines", type=int, nargs="?", default=10_000)
    parser.add_argument("--writers", type=int, default=8)
    arguments = parser.parse_args()
    with filled(arguments.engines) as url:
        catalogue = open_catalogue(url)
        rounds = [marks(catalogue) for _ in range(3)]
        seconds = statistics.median(one[2] for one in rounds)
        count, stay, _ = rounds[0]
        print(f"mark: {count} engines, {stay} stay: {seconds:.2f} s")
        with catalogue.read() as view:
            engine = view.channels()[0].engine
        for writers in (1, arguments.writers):
            with_log = writes(url, engine, writers, logged=True)
            bare = writes(url, engine, writers, logged=False)
            print(f"write: {writers} at once: {with_log:.0f}/s logged, {bare:.0f}/s not logged")
        start = time.perf_counter()
        with catalogue.read() as view:
            head = verify_chain(view.audit_entries())
        count = 0 if head is None else head.number
        print(f"verify: {count / (time.perf_counter() - start):.0f} entries/s")
        catalogue.close()


if __name__ == "__main__":
    main()
