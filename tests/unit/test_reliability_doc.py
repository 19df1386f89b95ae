"""docs/reliability.md shows every drill there is, and nothing lost, half-visible or forged."""

from __future__ import annotations

import re
from pathlib import Path

from tests.drills.ledger import Drill, Findings, Ledger, rows_of, table_of, write_table

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"


def names() -> set[str]:
    """Returns how the names of drills begin, as the tests give them."""
    found = set()
    for path in (ROOT / "tests" / "drills").glob("test_*.py"):
        for name in re.findall(r"ledger\.drill\(\s*f?\"([^\"{]*)", path.read_text()):
            found.add(name)
    return found


def test_every_drill_is_in_the_table() -> None:
    shown = [row[0] for row in rows_of(DOCUMENT)]
    assert len(names()) > 10
    for name in names():
        assert any(name in one for one in shown), name


def test_every_row_of_the_table_is_of_a_drill_that_there_is() -> None:
    for row in rows_of(DOCUMENT):
        assert any(row[0].startswith(name) for name in names()), row[0]


def test_the_table_is_all_zeros_after_at_least_one_run_each() -> None:
    for name, _, runs, *counts in rows_of(DOCUMENT):
        assert int(runs) > 0, name
        assert counts == ["0", "0", "0"], name


def test_a_ledger_counts_runs_and_fails_on_any_finding(tmp_path: Path) -> None:
    ledger = Ledger()
    drill = ledger.drill("power cut", "by hand")
    drill.ran(Findings())
    assert ledger.drill("power cut", "by hand") is drill
    try:
        drill.ran(Findings(lost=("engine a",), forged=("b", "c")), "at the end")
    except AssertionError as error:
        said = str(error)
    else:
        said = ""
    assert "engine a" in said
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- drills: begin -->\nold\n<!-- drills: end -->\nafter\n")
    write_table(document, ledger.rows())
    assert list(rows_of(document)) == [["power cut", "by hand", "2", "1", "0", "2"]]
    assert document.read_text().startswith("before\n")
    assert document.read_text().endswith("after\n")


def test_a_session_of_some_drills_replaces_their_rows_and_no_others(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    old = [[name, "as ever", "9", "0", "0", "0"] for name in ("flood", "power cut", "theft")]
    document.write_text(f"<!-- drills: begin -->\n{table_of(old)}\n<!-- drills: end -->\n")
    ledger = Ledger()
    for name in ("earthquake", "power cut"):
        ledger.drill(name, "by hand").ran(Findings())
    write_table(document, ledger.rows())
    new = [[name, "by hand", "1", "0", "0", "0"] for name in ("power cut", "earthquake")]
    assert list(rows_of(document)) == [old[0], new[0], old[2], new[1]]


def test_a_drill_without_a_finding_is_no_fault() -> None:
    drill = Drill("calm", "not at all")
    drill.ran(Findings())
    assert drill.faults == []
