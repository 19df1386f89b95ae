"""A switch that is killed at any step: what is current, and the way back of exactly that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enginekeeper.fleet.pulls import PullDirectory, PullState

A, B, C, D = (digit * 12 for digit in "abcd")


@pytest.fixture
def into(tmp_path: Path) -> PullDirectory:
    """A directory to which A was pulled, and then B."""
    found = PullDirectory(tmp_path)
    found.switch(A, model="m", channel="prod")
    found.switch(B, model="m", channel="canary")
    return found


def kill(monkeypatch: pytest.MonkeyPatch, into: PullDirectory, *, before: str) -> None:
    """Switches to C, and is killed before a file gets its name."""
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target.name == before:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("enginekeeper.fleet.pulls.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            into.switch(C, model="m", channel="next")


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("current", PullState("m", "canary", B, A, "prod")),
        ("pull.json", PullState("m", "next", C, B, "canary")),
    ],
)
def test_the_way_back_is_that_of_what_is_current_wherever_a_switch_was_killed(
    into: PullDirectory, monkeypatch: pytest.MonkeyPatch, before: str, expected: PullState
) -> None:
    kill(monkeypatch, into, before=before)
    assert (into.current_name(), into.way_back()) == (expected.current, expected)
    assert into.switch(expected.current, model="m", channel=expected.channel) == expected
    assert into.switch(D, model="m", channel="prod").previous == expected.current


def test_two_switches_that_were_killed_lose_no_way_back(
    into: PullDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(monkeypatch, into, before="pull.json")
    with monkeypatch.context():
        kill(monkeypatch, into, before="current")
    assert (into.current_name(), into.way_back().previous) == (C, B)
