"""The fleet's server on PostgreSQL: look-ups, drift, waves, and what agents can say in a second.

    python benchmarks/fleet.py [NODES ...] [--only PART] [--directory DIR] [--seconds S]
    python benchmarks/fleet.py --report

For each size (1,000, 10,000 and 100,000 unless told otherwise) a PostgreSQL of its own gets 1,200
signed engines with ten verdicts each, NODES simulated nodes of eight GPUs in pools of 250, three
engines on each, and three assignments to each pool; eleven in a hundred nodes are otherwise than
they should be, one in a hundred is not heard. With --directory it is filled once and kept. Then,
through the whole code path:

- lookups: `where` by engine, by node, by GPU, by node at a time; all that is known of one node;
- drift: the drift summary of the fleet, and its drift with every signature checked;
- wave: a wave plan over all of it with every signature checked;
- heartbeats: without news through the ingest in this process, everything that is written included;
- inventories: changed ones through the ingest in this process, 200 to a commit;
- http: both over HTTP to a real `ek serve`, with the processor time of the server, of PostgreSQL
  and of this load generator, on one machine with two cores;
- restart: the server killed (SIGKILL) under load and started again while every agent speaks.

Each figure stands beside its promise and a peer in the same run (raw SQL, a raw group-by, an
application that reads and answers alone). Each part of a run is one JSON file in
`benchmarks/results/`, of which `fleet.md` and `fleet.svg` are written. PostgreSQL's settings are
its own, but for `fsync = off`: a disk that waits for each commit adds that wait to each portion of
inventories and to the one write of heartbeats a second. Fails where a promise is not kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server and the rows are the tests'

from fleet_http import http, restart
from fleet_parts import drift, heartbeats, inventories, look_ups, wave
from fleet_report import keep, report
from fleet_world import Figure, World, world_of

from tests.fakes import servers

SIZES = [1000, 10_000, 100_000]
PARTS: Mapping[str, Callable[[World, float], Iterator[Figure]]] = {
    "lookups": lambda world, _: look_ups(world),
    "drift": lambda world, _: drift(world),
    "wave": lambda world, _: wave(world),
    "heartbeats": heartbeats,
    "inventories": inventories,
    "http": http,
    "restart": restart,
}


def measure(world: World, part: str, seconds: float, results: Path) -> int:
    """Measures one part and keeps it; returns how many promises were not kept."""
    before, figures = os.getloadavg()[0], []
    for one in PARTS[part](world, seconds):
        figures.append(one)
        verdict = ("kept" if one.kept else "NOT KEPT") if one.promise else ""
        against = "" if one.ratio is None else f"[{one.ratio:.1f} x {one.peer}]"
        print(f"{len(world.names)}: {one.name}: {one.said} {one.promise} {verdict} {against}")
        sys.stdout.flush()
    keep(results, len(world.names), part, figures, (before, os.getloadavg()[0]))
    return sum(not one.kept for one in figures)


def main() -> int:
    """Measures every size in turn, and writes the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nodes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--only", choices=PARTS, action="append", help="may be given again")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--directory", type=Path, help="keeps the server, to ask it again")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--report", action="store_true", help="measures nothing")
    options = parser.parse_args()
    broken = 0
    for nodes in [] if options.report else options.nodes:
        kept = None if options.directory is None else options.directory / f"fleet-{nodes}"
        with servers.postgresql(directory=kept) as server, world_of(server, nodes, kept) as world:
            for part in options.only or PARTS:
                broken += measure(world, part, options.seconds, options.results)
    report(options.results)
    print(f"{broken} promises were not kept", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
