"""Work in several processes: order, errors, and processes that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
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
    said = (error.what, error.where, error.actual, error.expected, error.remedy)
    assert said == ("too long", f"item {broken}", 3, 2, "cut")


def test_a_process_that_was_killed_is_no_missing_answer() -> None:
    def work(item: int) -> None:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UnavailableError) as caught:
        side_by_side(work, range(4), 2)
    assert caught.value.actual == "exit code -9"


def test_no_process_outlives_the_work() -> None:
    children: list[int] = []

    def work(item: int) -> None:
        if item:
            time.sleep(60)
        children.extend(int(pid) for pid in _children())
        raise InputError("enough")

    with pytest.raises(InputError):
        side_by_side(work, range(3), 3)
    assert len(children) >= 2
    assert not set(children) & {int(pid) for pid in _children()}


def _children() -> list[str]:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


_ENDLESS = """
import os, sys, time
from enginekeeper.validation.side_by_side import side_by_side
def work(item):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(0.2)
side_by_side(work, range(10_000), 2)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_their_parent(stop: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(4)}
        assert len(pids) == 2
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
