"""What drills found, drill by drill, and the table of it that docs/reliability.md shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- drills: begin -->", "<!-- drills: end -->"
_HEADS = ["drill", "injected how", "runs", "lost", "half-visible", "forged accepted"]
_RULE = ["---", "---", "--:", "--:", "--:", "--:"]


@dataclass
class Drill:
    """One kind of disturbance, and what came of every run of it."""

    name: str
    how: str
    runs: int = 0
    lost: int = 0
    """Things that were acknowledged and are not there, whole, afterwards."""
    half: int = 0
    """Things that can be seen and are not whole."""
    forged: int = 0
    """Things that nobody who is trusted signed, and that were accepted."""
    faults: list[str] = field(default_factory=list)

    def ran(self, found: Findings, where: str = "") -> None:
        """Counts a run and what was found after it; fails if that is anything."""
        self.runs += 1
        self.lost += len(found.lost)
        self.half += len(found.half)
        self.forged += len(found.forged)
        said = [f"{where}: {one}" for one in (*found.lost, *found.half, *found.forged)]
        self.faults += said
        assert not said, f"{self.name}: {'; '.join(said)}"


@dataclass(frozen=True)
class Findings:
    """What is wrong with a registry; nothing is what there should be."""

    lost: tuple[str, ...] = ()
    half: tuple[str, ...] = ()
    forged: tuple[str, ...] = ()


class Ledger:
    """The drills of one session of tests."""

    def __init__(self) -> None:
        self._drills: dict[str, Drill] = {}

    def drill(self, name: str, how: str) -> Drill:
        """Returns the record of a drill; tests of one drill share it."""
        return self._drills.setdefault(name, Drill(name, how))

    def rows(self) -> list[list[str]]:
        """Returns the cells of the table, drills in the order they began."""
        return [
            [one.name, one.how, *map(str, (one.runs, one.lost, one.half, one.forged))]
            for one in self._drills.values()
        ]


def table_of(rows: Iterable[list[str]]) -> str:
    """Returns rows as a table, with its heading."""
    return "\n".join(_line(row) for row in (_HEADS, _RULE, *rows))


def write_table(document: Path, rows: Iterable[list[str]]) -> None:
    """Puts rows in the place of those of the same drills in a document's table.

    The rows of drills that were not run stay, in their order; a new drill comes last. So a session
    that ran a part of the drills changes nothing of the others.
    """
    shown = {row[0]: row for row in rows_of(document)}
    shown.update((row[0], row) for row in rows)
    before, _, rest = document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{table_of(shown.values())}\n{END}{after}")


def rows_of(document: Path) -> Iterable[list[str]]:
    """Yields the cells of every row of the table that a document shows."""
    _, _, rest = document.read_text().partition(BEGIN)
    lines = rest.partition(END)[0].strip().splitlines()[2:]
    yield from ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
