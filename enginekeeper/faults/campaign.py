"""All cases of a grid on one checkpoint, resumable: each trial is written down when it is done.

The record names grid, checkpoint, source and the code that judged; where one of them is another,
the record is begun anew. A line that was cut short by a kill is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError
from enginekeeper.faults.grid import Grid
from enginekeeper.faults.trial import Bench, Trial
from enginekeeper.own_code import code_digest
from enginekeeper.validation.checkpoint import Checkpoint
from registry.digests import Digest, digest_document, digest_file
from registry.disks import full_disk_said

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Campaign:
    """What a grid found on one checkpoint."""

    recipe: str
    """How the checkpoint is quantized."""
    trials: tuple[Trial, ...]
    seconds: float
    """Processor time of the audits of the healthy checkpoint, nothing looked up."""
    not_run: int = 0
    """Cases of the grid that no part has run yet."""


@dataclass(frozen=True)
class Part:
    """Every `of`-th case of a grid, from the `number`-th on: parts spread a grid over time."""

    number: int = 1
    of: int = 1

    def has(self, position: int) -> bool:
        """Whether the part has the case at a position, counted from 1."""
        return position % self.of == self.number % self.of


WHOLE = Part()


def run(
    checkpoint: Path,
    source: Path,
    grid: Grid,
    records: Path,
    progress: Progress,
    *,
    part: Part = WHOLE,
) -> Campaign:
    """Runs what of a part the record does not have yet, and returns all that it has then.

    Raises InputError for what cannot be audited, and for a checkpoint in which the audits find
    something as it is: whatever was put into it would count as found.
    """
    bench = Bench.open(checkpoint, source)
    identity = _identity(checkpoint, source, grid)
    with full_disk_said(records):
        records.mkdir(parents=True, exist_ok=True)
        record = records / f"{digest_document(identity, 'ek-faults-v1').value[:32]}.jsonl"
        known = {trial.case: trial for trial in _read(record)}
        findings, seconds = bench.healthy()
        if findings:
            raise InputError(
                "the audits find something in the checkpoint as it is: faults in it prove nothing",
                where=str(checkpoint),
                actual=f"{findings[0].where}: {findings[0].message}",
                remedy="see `ek checkpoint repair`",
            )
        with record.open("a", encoding="utf-8") as handle:
            for number, case in enumerate(grid.cases, 1):
                if part.has(number) and case.name not in known:
                    trial = known[case.name] = bench.run(case)
                    handle.write(json.dumps(trial.as_dict()) + "\n")
                    handle.flush()
                    progress(f"{number}/{len(grid.cases)} {case.name}: {trial.outcome}")
    return Campaign(
        recipe=label(Checkpoint.open(checkpoint)),
        trials=tuple(known[case.name] for case in grid.cases if case.name in known),
        seconds=seconds,
        not_run=len(grid.cases) - len(known),
    )


def _identity(checkpoint: Path, source: Path, grid: Grid) -> dict[str, str]:
    """Names what a trial depends on."""
    return {
        "grid": str(grid.digest),
        "checkpoint": str(_digest(sorted(checkpoint.iterdir()))),
        "source": str(_digest([source / "config.json", *sorted(source.glob("*.safetensors"))])),
        "code": code_digest("configs", "validation", "faults", "data/faults"),
    }


def _digest(paths: list[Path]) -> Digest:
    files = {f"{path.parent.name}/{path.name}": str(digest_file(path)) for path in paths}
    return digest_document(files, "ek-files-v1")


def _read(record: Path) -> Iterator[Trial]:
    if not record.is_file():
        return
    whole = record.read_text(encoding="utf-8").rpartition("\n")[0]
    record.write_text(whole + "\n" if whole else "", encoding="utf-8")
    for number, line in enumerate(whole.splitlines(), 1):
        yield _trial(parse_json(line, f"{record}:{number}"), record)


def _trial(document: Any, record: Path) -> Trial:  # noqa: ANN401 - any JSON value
    try:
        return Trial(**{**document, "told": tuple(document["told"])})
    except (TypeError, KeyError) as error:
        raise InputError(
            "not a record of trials", where=str(record), remedy="remove the file and run again"
        ) from error


def label(checkpoint: Checkpoint) -> str:
    """Says in a few words how a checkpoint is quantized."""
    block = checkpoint.quantization
    words = [
        block.algorithm or "unquantized",
        f"groups of {block.group_size}" if block.group_size else "",
        "pre-quant" if block.prequant else "",
        f"KV {block.kv_cache}" if block.kv_cache else "",
        f"TP {checkpoint.tensor_parallel}" if checkpoint.tensor_parallel > 1 else "",
    ]
    return ", ".join(word for word in words if word)
