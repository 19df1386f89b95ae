"""What is said of transfers, and how often."""

from __future__ import annotations

import logging

import pytest

from enginekeeper.orchestration.transfers import TransferLog

GB = 1_000_000_000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("enginekeeper.progress"), "propagate", True)
    caplog.set_level(logging.INFO, "enginekeeper.progress")
    return caplog


def run(log: TransferLog, clock: Clock, steps: list[tuple[float, int]], total: int) -> None:
    for clock.now, done in steps:
        log("weights", done, total)


def test_a_line_is_said_every_few_seconds_and_at_the_end(
    clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    run(TransferLog(clock), clock, [(0, 0), (1, GB), (6, 3 * GB), (7, 4 * GB)], 4 * GB)
    assert said.messages == [
        "weights: 75 % of 4.0 GB, 500 MB/s",
        "weights: 100 % of 4.0 GB, 571 MB/s",
    ]


def test_what_an_earlier_run_left_is_not_counted_into_the_rate(
    clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    run(TransferLog(clock), clock, [(0, 2 * GB), (10, 3 * GB)], 4 * GB)
    assert said.messages == ["weights: 75 % of 4.0 GB, 100 MB/s"]


def test_the_next_file_begins_anew(clock: Clock, said: pytest.LogCaptureFixture) -> None:
    log = TransferLog(clock)
    run(log, clock, [(0, GB), (10, 2 * GB)], 2 * GB)
    run(log, clock, [(100, GB), (101, 2 * GB)], 2 * GB)
    assert said.messages[-1] == "weights: 100 % of 2.0 GB, 1000 MB/s"


def test_small_files_are_not_worth_a_line(clock: Clock, said: pytest.LogCaptureFixture) -> None:
    run(TransferLog(clock), clock, [(0, 1), (60, 2)], 2)
    assert said.messages == []
