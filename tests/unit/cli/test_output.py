"""Rendering: tables are aligned and whole, JSON is JSON."""

from __future__ import annotations

import json

import pytest

from enginekeeper.cli._output import Output, render_table


def test_a_table_never_truncates() -> None:
    text = render_table([{"engine": "x" * 300, "result": None}], ["engine", "result"])
    assert "x" * 300 in text
    assert text.splitlines()[0].split() == ["ENGINE", "RESULT"]
    assert text.splitlines()[1].endswith("-")


def test_numbers_are_shown_as_they_are() -> None:
    text = render_table([{"was": 50001.25, "now": 50000.0}], ["was", "now"])
    assert text.splitlines()[1].split() == ["50001.25", "50000.0"]


def test_json_output_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).table([{"a": 1}], ["a"])
    assert json.loads(capsys.readouterr().out) == [{"a": 1}]


def test_json_output_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Output(as_json=True).json(float("nan"))
