"""The teacher-forced part of a suite against running the engine on the same tokens and no more.

`python benchmarks/smoke_cost.py ENGINE TOKENS TARGET...`: ENGINE is an engine directory of the
embedded builder, TOKENS the suite's token ids (`<cache>/work/tokens/*/tokens.json`), each TARGET a
score file of another arm, as a build has two. Prints processor seconds and their ratio; promised
is 1.3.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of
from enginekeeper.toolchains.runner import StepRun, run_step

PROMISED = 1.3
TOP_K = 20


def main() -> int:
    """Runs the step, prints what it took, and fails above what is promised."""
    engine, tokens, *targets = map(Path, sys.argv[1:])
    settings, toolchain = Settings.from_environment(), find_toolchain("inductor")
    python = installation_of(toolchain, lock_of(toolchain, settings), settings).python
    job = {
        "engine": str(engine), "tokens": str(tokens), "top_k": TOP_K,
        "targets": {f"t{number}": str(path) for number, path in enumerate(targets)},
    }  # fmt: skip
    steps = Path(__file__).with_name("steps")
    with tempfile.TemporaryDirectory() as folder:
        run = StepRun("inductor", "score_bare", job, Path(folder), 3600, scripts=steps)
        spent = run_step(run, python=python).outputs
    ratio = spent["scored"] / spent["bare"]
    print(
        f"{spent['positions']} positions: bare {spent['bare']:.1f} s, "
        f"scored {spent['scored']:.1f} s, {ratio:.2f} times"
    )
    return 0 if ratio <= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
