"""Other families than the one the audits were tuned on: healthy exports, and faults in them.

    python benchmarks/families.py models WORK            # re-lay the bundled model (seconds)
    python benchmarks/families.py export WORK [FAMILY..] # ModelOpt, every recipe (3 min, one core)
    python benchmarks/families.py healthy WORK           # audits of every export, repaired
    python benchmarks/families.py faults WORK I N [FAMILY..]   # every N-th case from the I-th on

WORK is a directory of its own. The weights are those of the bundled model, four of its layers and
2,051 of its tokens, laid out by `tests/factories/families.py`; the exports are ModelOpt's, by the
quantize step, six of the families in float16, too (`FAMILY-f16`). What an export lacks is repaired
as `ek build` does. `faults` prints the detection table of `ek faults run` over all of them, and
what was missed, stopped or named wrongly. What was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.faults.campaign import Campaign, Part, run
from enginekeeper.faults.detection import document, render
from enginekeeper.faults.grid import bundled_grid, load_grid
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of
from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.repair import apply_repairs, propose_repairs

sys.path.append(str(Path(__file__).parents[1]))
from tests.factories.families import FAMILIES, Cut, lay_out

CUT = Cut(layers=(0, 9, 19, 29), vocabulary=2051)
"""Layers of the beginning, the middle and the end; a vocabulary that is no multiple of 64."""

_STEP = Path(__file__).parent / "steps" / "export_families.py"


def donor() -> Path:
    """Returns the bundled model; raises InputError if it was not unpacked yet."""
    donors = sorted((Settings.from_environment().cache / "models" / "packaged").glob("*/model"))
    if not donors:
        raise InputError("the bundled model is not here", remedy="run `make demo` first")
    return donors[0]


def models(work: Path) -> int:
    """Lays the bundled model out as every family that is not there yet."""
    for name, family in FAMILIES.items():
        model, draft = work / "models" / name, work / "drafts" / name
        if not model.exists():
            shutil.rmtree(draft, ignore_errors=True)  # what an interrupted run left
            lay_out(family, donor(), CUT, draft)
            model.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(model)
    return 0


def export(work: Path, families: list[str]) -> int:
    """Runs ModelOpt on every family and recipe, in one process of its toolchain."""
    settings, toolchain = Settings.from_environment(), find_toolchain("modelopt")
    python = installation_of(toolchain, lock_of(toolchain, settings), settings).python
    return subprocess.call([str(python), str(_STEP), str(work), *families])


def exports(work: Path, families: list[str]) -> Iterator[tuple[Path, Path]]:
    """Yields each export, repaired, and its source."""
    every = sorted((work / "exports").glob("*/*"))
    wanted = [made for made in every if not families or made.parent.name in families]
    if not wanted:
        raise InputError(
            "there are no such exports", where=str(work / "exports"), remedy="run `export` first"
        )
    for made in wanted:
        name = made.parent.name
        source = work / "models" / name.removesuffix("-f16")
        repaired = work / "repaired" / name / made.name
        if not repaired.exists():
            repairs = propose_repairs(read_json_object(source / "config.json"), made)
            if repairs:
                apply_repairs(made, repaired, repairs)
        yield (repaired if repaired.exists() else made), source


def healthy(work: Path, families: list[str]) -> int:
    """Audits every export and prints what was found: nothing, if all is well."""
    count = stopped = 0
    for checkpoint, source in exports(work, families):
        count += 1
        found = _found(source, checkpoint)
        stopped += bool(found)
        for one in found[:3]:
            print(f"{checkpoint.parent.name}/{checkpoint.name}: {one.where}: {one.message}")
    print(f"{count} healthy exports, {stopped} with a finding")
    return int(stopped > 0)


def _found(source: Path, checkpoint: Path) -> list[Finding]:
    return [finding for report in audit(source, checkpoint) for finding in report.findings]


def faults(work: Path, part: Part, families: list[str]) -> int:
    """Runs a part of the grid on every export and prints the table."""
    path = bundled_grid()
    grid, campaigns = load_grid(path), list[Campaign]()
    for checkpoint, source in exports(work, families):
        one = run(checkpoint, source, grid, work / "records", _silent, part=part)
        campaigns.append(one)
        print(f"{checkpoint.parent.name}/{checkpoint.name}", file=sys.stderr)
    found = document(campaigns, f"{path.stem} ({grid.digest.short})")
    (work / "faults.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(render(found))
    return 0


def _silent(line: str) -> None:
    del line


def main() -> int:
    """Reads the command line; says what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=("models", "export", "healthy", "faults"))
    parser.add_argument("work", type=Path)
    parser.add_argument("rest", nargs="*")
    given = parser.parse_args()
    try:
        return _run(given.command, given.work, given.rest)
    except InputError as error:
        print(error, file=sys.stderr)
        return 4


def _run(command: str, work: Path, rest: list[str]) -> int:
    match command, rest:
        case "models", []:
            return models(work)
        case "export", families:
            return export(work, families)
        case "healthy", families:
            return healthy(work, families)
        case "faults", [number, of, *families] if number.isdigit() and of.isdigit():
            return faults(work, Part(int(number), int(of)), families)
    raise InputError(f"no way to read {command} {rest}", remedy=__doc__.split("\n\n")[1].strip())


if __name__ == "__main__":
    sys.exit(main())
