"""Work in several processes: order, errors, and processes that end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.validation import side_by_side as module
from enginekeeper.validation.audits import audit
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.side_by_side import side_by_side
from enginekeeper.validation.source_model import SourceModel, UnusableModelError
from enginekeeper.validation.weight_audit import audit_weights
from tests.factories import checkpoints


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [0, 1, 2, 7, 20])
def test_answers_are_in_the_order_of_the_items(processes: int, items: int) -> None:
    assert side_by_side(lambda item: item**2, range(items), processes) == [
        item**2 for item in range(items)
    ]


def test_work_is_shared_among_processes() -> None:
    at_work = side_by_side(lambda _: os.getpid(), range(9), 3)
    assert at_work[0] == os.getpid()
    assert len(set(at_work)) == 3


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_is_raised_wherever_it_was_met(broken: int) -> None:
    def work(item: int) -> None:
        if item == broken:
            raise InputError("too long", where=f"item {item}", actual=3, expected=2, remedy="cut")

    with pytest.raises(InputError) as caught:
        side_by_side(work, range(4), 2)
    error = caught.value
    said = (error.what, error.where, str(error.actual), str(error.expected), error.remedy)
    assert said == ("too long", f"item {broken}", "3", "2", "cut")


def test_a_process_that_was_killed_is_no_missing_answer() -> None:
    def work(item: int) -> None:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UnavailableError) as caught:
        side_by_side(work, range(4), 2)
    assert caught.value.actual == "signal 9"


def test_a_process_that_failed_otherwise_is_an_error_of_ours() -> None:
    def work(item: int) -> float:
        return 1 / (item - 1)

    with pytest.raises(RuntimeError, match="failed, as it has said"):
        side_by_side(work, range(4), 2)


def test_what_no_process_is_there_for_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    start = module._Child.start

    def refuse_the_second(
        work: Callable[[int], object], share: Sequence[int], others: list[Connection]
    ) -> module._Child:
        if others:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return start(work, share, others)

    monkeypatch.setattr(module._Child, "start", refuse_the_second)
    at_work = side_by_side(lambda item: (item, os.getpid()), range(12), 4)
    assert [item for item, _ in at_work] == list(range(12))
    assert len({pid for _, pid in at_work}) == 2


def test_no_process_outlives_the_work() -> None:
    before = multiprocessing.active_children()
    started: list[multiprocessing.process.BaseProcess] = []

    def work(item: int) -> None:
        if item:
            time.sleep(60)
        started.extend(one for one in multiprocessing.active_children() if one not in before)
        raise InputError("enough")

    with pytest.raises(InputError):
        side_by_side(work, range(3), 3)
    assert len(started) == 2
    assert not any(one.is_alive() for one in started)


_ENDLESS = """
import os, sys, time
from enginekeeper.validation.side_by_side import side_by_side
parent, bytes_each, items = os.getpid(), *map(int, sys.argv[1:])
def work(item):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(0.2 if items > 9 or os.getpid() != parent else 60)
    return bytes(bytes_each)
side_by_side(work, range(items), 3)
"""


@pytest.mark.parametrize(("size", "items"), [(1, 10_000), (300_000, 9)])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_their_parent(stop: signal.Signals, size: int, items: int) -> None:
    """At work, or while they send more than a pipe holds."""
    with subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(size), str(items)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(7)}
        assert len(pids) == 3
        time.sleep(0.5 if items == 9 else 0)
        os.kill(process.pid, stop)
        process.communicate(timeout=20)  # the pipe is closed when the last of them has ended


def test_a_process_with_threads_works_alone() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert set(side_by_side(lambda _: os.getpid(), range(100))) == {os.getpid()}
    finally:
        done.set()
        thread.join()


def test_audits_in_several_processes_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoints.exported("w4a16_awq", tmp_path)
    for layer in (0, 1):
        scales = f"transformer.layers.{layer}.mlp.proj.weights_scaling_factor"
        checkpoints.edit_tensor(checkpoint, scales, lambda one: one * 2)
    alone = audit(checkpoints.SOURCE, checkpoint)
    monkeypatch.setattr(module, "_how_many", lambda _: 3)
    assert audit(checkpoints.SOURCE, checkpoint) == alone
    assert len(alone[1].findings) == 2


def test_a_source_that_is_not_finite_is_refused_from_any_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoints.source_copy(tmp_path)
    checkpoints.edit_tensor(
        source, "model.layers.0.mlp.up_proj.weight", lambda one: one * float("inf")
    )
    monkeypatch.setattr(module, "_how_many", lambda _: 2)
    with pytest.raises(UnusableModelError, match="not finite"):
        audit_weights(
            SourceModel.open(source), Checkpoint.open(checkpoints.exported("none", tmp_path))
        )
