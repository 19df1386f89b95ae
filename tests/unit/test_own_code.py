"""Names of our own code: what changes one, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper import own_code
from enginekeeper.own_code import code_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("rules/a.py", "rules/notes.md", "data/grid.json", "one.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(own_code, "PACKAGE", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["rules/a.py", "data/grid.json", "one.py"])
def test_a_changed_file_is_another_name(package: Path, name: str) -> None:
    before = code_digest("rules", "data", "one.py")
    (package / name).write_text("changed")
    assert code_digest("rules", "data", "one.py") != before


def test_notes_beside_code_are_no_part_of_it(package: Path) -> None:
    before = code_digest("rules")
    (package / "rules" / "notes.md").write_text("changed")
    assert code_digest("rules") == before
