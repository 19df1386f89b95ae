"""The dose grid: which faults, in which doses, where. Fixed in a file before anything is measured.

A published grid never changes: another choice is another version in the file's name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from enginekeeper.configs.form import Form
from enginekeeper.documents import read_json_object
from enginekeeper.faults.catalogue import named
from enginekeeper.faults.fault import Fault, Layers, Linear, Target
from enginekeeper.faults.injection import Injection
from registry.digests import Digest, digest_document

GRIDS = Path(__file__).parent.parent / "data" / "faults"

_Numbers = Annotated[list[float], Field(min_length=1)]


class _Entry(Form):
    """One fault in some doses at some places: every combination of them is a case."""

    remedy = "see enginekeeper/data/faults/README.md"

    fault: str
    doses: _Numbers | None = None
    """At or above the stated detection limit; the fault's usual one if it has no dose."""
    below: list[float] | None = None
    """Doses below the limit: counted in a row of their own, never dropped."""
    layers: list[Layers] | None = None
    linears: list[Linear] | None = None
    seeds: list[int] | None = None


class _Document(Form):
    version: int
    entries: list[_Entry]


@dataclass(frozen=True)
class Case:
    """One injection of the grid."""

    injection: Injection
    below_limit: bool

    @property
    def fault(self) -> Fault:
        """Which fault or control it is."""
        return self.injection.fault

    @property
    def name(self) -> str:
        """Names the case inside the grid."""
        target = self.injection.target
        place = f"{target.layers}.{target.linear}"
        return f"{self.fault.name}:{self.injection.dose:g}@{place}#{target.seed}"


@dataclass(frozen=True)
class Grid:
    """All cases, in the file's order, and the digest of the file's content."""

    digest: Digest
    cases: tuple[Case, ...]


def bundled_grid() -> Path:
    """Returns the newest grid that ships with Enginekeeper."""
    return max(GRIDS.glob("grid-v*.json"), key=lambda path: int(path.stem.rpartition("-v")[2]))


def load_grid(path: Path) -> Grid:
    """Reads a grid; raises InputError for a malformed one, MissingError for unknown faults."""
    document = read_json_object(path)
    grid = _Document.of(document, str(path))
    cases = tuple(case for entry in grid.entries for case in _cases(entry))
    return Grid(digest_document(document, "ek-faults-v1"), tuple(dict.fromkeys(cases)))


def _cases(entry: _Entry) -> Iterator[Case]:
    fault = named(entry.fault)
    doses = [(dose, False) for dose in entry.doses or [fault.usual]]
    doses += [(dose, True) for dose in entry.below or ()]
    for dose, below in doses:
        for target in _targets(entry):
            yield Case(Injection(fault, dose, target), below)


def _targets(entry: _Entry) -> Iterator[Target]:
    usual = Target()
    layers, linears = entry.layers or [usual.layers], entry.linears or [usual.linear]
    for where, linear, seed in itertools.product(layers, linears, entry.seeds or [usual.seed]):
        yield Target(where, linear, seed)


def describe(fault: Fault) -> dict[str, Any]:
    """Returns what is known of a fault as JSON values."""
    return {
        "fault": fault.name,
        "class": fault.taxonomy or "healthy",
        "what": fault.what,
        "dose": fault.dose,
        "usual": fault.usual if fault.dose else None,
        "target": fault.scope,
        "seen_by": "files" if fault.in_files else "behaviour",
        "like": fault.like or None,
    }
