"""How long `--help` of every command takes, against a bare interpreter, in one run.

    python benchmarks/help_time.py [RUNS]

Every command there is, found by walking the command line itself. Whole processes, wall time; prints
the median and the worst of RUNS (default 5) and the ratio to `python -c pass` measured in turn with
it, slowest first. Exit 1 if a median is over the promised 300 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from enginekeeper.cli.main import cli

PROMISED_MS = 300.0
EK = str(Path(sys.executable).parent / "ek")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the words of a command and of every command below it."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is None:
                raise AssertionError(f"the command line lists {name} and has it not")
            yield from commands(below, (*path, name))


def milliseconds(arguments: list[str]) -> float:
    """Returns the wall time of one process in milliseconds; it must succeed."""
    start = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def main() -> int:
    """Prints the table and says whether the promise holds."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = []
    for command in commands(cli):
        ours, bare = [], []
        for _ in range(runs):  # in turn, so that a busy machine slows both
            ours.append(milliseconds([EK, *command, "--help"]))
            bare.append(milliseconds([sys.executable, "-c", "pass"]))
        median, base = statistics.median(ours), statistics.median(bare)
        name = " ".join(("ek", *command, "--help"))
        rows.append((median, max(ours), base, name))
    print("| command | median ms | worst ms | bare python, median ms | ratio |")
    print("|---|--:|--:|--:|--:|")
    for median, worst, base, name in sorted(rows, reverse=True):
        print(f"| `{name}` | {median:.0f} | {worst:.0f} | {base:.0f} | {median / base:.1f} |")
    return 0 if max(rows)[0] <= PROMISED_MS else 1


if __name__ == "__main__":
    sys.exit(main())
