from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from enginekeeper.cli.main import cli


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEKEEPER_HOME", str(tmp_path / "home"))


def run(*arguments: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(cli, ["suite", *arguments, "--json"], standalone_mode=False)
    assert result.exception is None, result.output
    rows: list[dict[str, object]] = json.loads(result.stdout)
    return rows


def test_own_samples_are_listed_beside_what_ships(tmp_path: Path) -> None:
    samples = tmp_path / "traffic.jsonl"
    samples.write_text('{"text": "Where is my parcel?"}\n')

    (dry,) = run("add", str(samples), "--name", "desk", "--dry-run")
    before = run("list")
    (added,) = run("add", str(samples), "--name", "desk")
    (again,) = run("add", str(samples), "--name", "desk")

    assert (dry["suite"], dry["added"], added["added"], again["added"]) == (
        "desk-v1", False, True, False,
    )  # fmt: skip
    assert "desk-v1" not in {row["suite"] for row in before}
    assert ("desk-v1", "this home") in {(row["suite"], row["of"]) for row in run("list")}
    (shown,) = run("show", "desk")
    assert shown == {"kind": "traffic", "prompts": 1, "characters": 19, "longest": 19}
