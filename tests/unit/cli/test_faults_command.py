"""`faults`: what is listed, and what a copy with a fault in it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.factories import checkpoints

Ek = Callable[..., Any]


def test_list_tells_class_and_dose(ek: Ek) -> None:
    rows = {row["fault"]: row for row in ek("faults", "list", "--json").json}
    assert rows["scale-gain"]["class"] == "T1"
    assert rows["scale-gain"]["dose"] == "factor"
    assert rows["rounding-clipped"]["class"] == "healthy"


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
