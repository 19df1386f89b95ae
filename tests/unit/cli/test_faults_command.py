"""`faults`: what is listed, and what a copy with a fault in it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from enginekeeper.cli.faults import _LAYERS, _LINEARS
from enginekeeper.faults.fault import LAYERS, LINEARS
from tests.factories import checkpoints

Ek = Callable[..., Any]


def test_list_tells_class_and_dose(ek: Ek) -> None:
    rows = {row["fault"]: row for row in ek("faults", "list", "--json").json}
    assert rows["scale-gain"]["class"] == "T1"
    assert rows["scale-gain"]["dose"] == "factor"
    assert rows["rounding-clipped"]["class"] == "healthy"


def test_the_choices_of_the_command_line_are_the_laboratorys() -> None:
    assert (_LAYERS, _LINEARS) == (LAYERS, LINEARS)


def test_inject_writes_a_copy_that_the_audit_stops(ek: Ek, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    out = tmp_path / "out"
    said = ek("faults", "inject", checkpoint, "rope-base", "--dose", "1.01", "--to", out)
    assert said.code == 0
    assert "an audit should name rotary_base" in said.err
    audited = ek("checkpoint", "audit", out, "--model", checkpoints.SOURCE)
    assert audited.code == 5
    assert "rotary_base" in audited.out


def test_inject_never_writes_over_something(ek: Ek, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    said = ek("faults", "inject", checkpoint, "rope-base", "--to", checkpoint)
    assert said.code == 3
    assert "the output exists" in said.err


def test_run_prints_the_table_and_goes_on_from_its_records(ek: Ek, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    grid = tmp_path / "grid-v9.json"
    entries = '[{"fault": "rope-base", "doses": [1.01, 2]}, {"fault": "tensor-order"}]'
    grid.write_text(f'{{"version": 9, "entries": {entries}}}')
    command = ("faults", "run", checkpoint, "--model", checkpoints.SOURCE, "--grid", grid)
    first, second = ek(*command), ek(*command, "--json")
    assert "| T15 positions: rope base, scaling, window | 2 | 2 | 2 | 0 |" in first.out
    assert "3/3 tensor-order" in first.err
    assert second.err == ""
    assert second.json["wrong"] == []
