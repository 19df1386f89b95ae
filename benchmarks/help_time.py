"""How long `--help` of every command takes, against a bare interpreter, in one run.

    python benchmarks/help_time.py [RUNS]

Whole processes, wall time; prints the median and the worst of RUNS (default 7) and the ratio to
`python -c pass` measured in turn with it. Exit 1 if a median is over the promised 300 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

PROMISED_MS = 300.0
EK = str(Path(sys.executable).parent / "ek")
COMMANDS = (
    (),
    ("plan",),
    ("build",),
    ("checkpoint",),
    ("checkpoint", "audit"),
    ("validate",),
    ("engine",),
    ("engine", "list"),
    ("channel",),
    ("gate",),
    ("where",),
    ("toolchain",),
    ("db",),
)


def milliseconds(arguments: list[str]) -> float:
    """Returns the wall time of one process in milliseconds; it must succeed."""
    start = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def main() -> int:
    """Prints the table and says whether the promise holds."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    kept = True
    print("| command | median ms | worst ms | bare python, median ms | ratio |")
    print("|---|--:|--:|--:|--:|")
    for command in COMMANDS:
        ours, bare = [], []
        for _ in range(runs):  # in turn, so that a busy machine slows both
            ours.append(milliseconds([EK, *command, "--help"]))
            bare.append(milliseconds([sys.executable, "-c", "pass"]))
        median, base = statistics.median(ours), statistics.median(bare)
        kept = kept and median <= PROMISED_MS
        name = " ".join(("ek", *command, "--help"))
        print(f"| `{name}` | {median:.0f} | {max(ours):.0f} | {base:.0f} | {median / base:.1f} |")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
