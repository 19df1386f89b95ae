"""What the static audits find: every fault and control of the grid on the exports that are here.

    python benchmarks/detection.py [--json]     (make bench-faults)

Takes from the work store, for each way of quantizing the bundled model, the export that passes its
audits as it is, and runs `ek faults run` on them. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from enginekeeper.errors import InputError
from enginekeeper.faults.campaign import label
from enginekeeper.settings import Settings
from enginekeeper.validation.audits import audit
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import worst


def healthy_exports(cache: Path, source: Path) -> dict[str, Path]:
    """Returns an export that the audits pass for each way of quantizing."""
    found: dict[str, Path] = {}
    for kind in ("repaired", "checkpoint"):
        for product in sorted((cache / "work" / kind).glob("*/product.json")):
            directory = product.parent / "checkpoint"
            try:
                name = label(Checkpoint.open(directory))
                if name in found or worst(r.result for r in audit(source, directory)) != "pass":
                    continue
            except InputError:
                continue  # an export of another model
            found[name] = directory
    return found


def main() -> int:
    """Runs the command on what is there."""
    cache = Settings.from_environment().cache
    sources = sorted((cache / "models" / "packaged").glob("*/model"))
    exports = healthy_exports(cache, sources[0]) if sources else {}
    if not exports:
        print("no exports of the bundled model here: run `make demo-all` first", file=sys.stderr)
        return 4
    command = [sys.executable, "-m", "enginekeeper", "faults", "run", "--model", str(sources[0])]
    return subprocess.call([*command, *map(str, exports.values()), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
