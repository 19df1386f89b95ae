"""A defect: never a bare traceback on the terminal, always a file that has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode

Ek = Callable[..., Any]


@pytest.fixture(autouse=True)
def defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `where` raise what nobody expects."""

    def broken() -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("enginekeeper.orchestration.bench.open_bench", broken)


def test_a_defect_is_one_line_with_the_place_of_its_traceback(ek: Ek, tmp_path: Path) -> None:
    said = ek("where")

    (log,) = (tmp_path / "home" / "crashes").iterdir()
    assert (said.code, said.out) == (ExitCode.INTERNAL, "")
    assert said.err.splitlines()[0] == "internal error: ZeroDivisionError: first line"
    assert str(log) in said.err
    assert "report" in said.err
    assert "in broken" in log.read_text()
    assert "command: ek where" in log.read_text()


def test_a_defect_is_one_json_line_where_json_was_asked_for(ek: Ek) -> None:
    said = ek("where", "-o", "json")

    error = json.loads(said.err)
    assert (said.code, error["exit_code"], said.out) == (1, 1, "")
    assert (error["error"], error["what"]) == ("InternalError", "ZeroDivisionError: first line")
    assert Path(error["where"]).is_file()


@pytest.mark.parametrize("home", ["/proc/nope", "~nosuchuser/x"])
def test_without_a_home_the_traceback_goes_to_the_temporary_directory(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("ENGINEKEEPER_HOME", home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    ek("where")

    assert len(list(tmp_path.glob("crash-*.log"))) == 1


def test_a_traceback_that_nobody_keeps_is_still_no_traceback(
    ek: Ek, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEKEEPER_HOME", "/proc/nope")
    monkeypatch.setattr("tempfile.tempdir", "/proc/nope")

    said = ek("where")

    assert said.code == ExitCode.INTERNAL
    assert "log:  nowhere" in said.err
