"""Puts a fault into a copy of a checkpoint, and writes down what was done beside it."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.faults.draft import Draft, InapplicableError
from enginekeeper.faults.fault import Fault, Target
from registry.disks import full_disk_said

RECORD = "faults.json"
SCHEMA = 1


@dataclass(frozen=True)
class Injection:
    """One fault in one dose at one place."""

    fault: Fault
    dose: float
    target: Target

    def apply(self, draft: Draft) -> tuple[str, ...]:
        """Edits a draft and returns the culprits.

        Raises InapplicableError if nothing changes, or if the dose does not fit.
        """
        where = str(draft.base.directory)
        if not math.isfinite(self.dose):
            raise InapplicableError("a dose is a finite number", where=where, actual=self.dose)
        try:
            culprits = self.fault.edit(draft, self.target, self.dose)
        except (ValueError, ArithmeticError) as error:
            raise InapplicableError(
                "the fault cannot have this dose here",
                where=where,
                actual=f"{self.fault.name} {self.dose:g}",
                expected=self.fault.dose,
                remedy="see `ek faults list`",
            ) from error
        if not draft.differs():
            raise InapplicableError(f"{self.fault.name} changes nothing here", where=where)
        return culprits

    def as_dict(self) -> dict[str, Any]:
        """Returns what was done as JSON values."""
        return {
            "fault": self.fault.name,
            "class": self.fault.taxonomy,
            "dose": self.dose,
            "layers": self.target.layers,
            "linear": self.target.linear,
            "seed": self.target.seed,
        }


def inject(
    checkpoint: Path, injection: Injection, output: Path, source: Path | None = None
) -> dict[str, Any]:
    """Writes a faulty copy and returns its record; the copy appears whole or not at all.

    Raises InputError for a checkpoint that cannot be read, for an output that exists, and
    InapplicableError where the fault cannot be expressed.
    """
    if output.exists():
        raise InputError("the output exists; a fault goes into a new copy", where=str(output))
    draft = Draft.open(checkpoint, source)
    culprits = injection.apply(draft)
    record = {**injection.as_dict(), "culprits": list(culprits)}
    earlier: list[Any] = []
    if (checkpoint / RECORD).is_file():
        earlier = list(read_json_object(checkpoint / RECORD).get("injected", []))
    try:
        with full_disk_said(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            _write(draft, output, {"schema": SCHEMA, "injected": [*earlier, record]})
    except OSError as error:
        raise InputError(
            "the copy cannot be written", where=str(output), actual=error.strerror
        ) from error
    return record


def _write(draft: Draft, output: Path, record: dict[str, Any]) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        draft.write(partial)
        with (partial / RECORD).open("w", encoding="utf-8") as handle:
            json.dump(record, handle, indent=2)
            handle.flush()
            os.fsync(handle.fileno())
        partial.chmod(0o755)  # mkdtemp makes it private
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
