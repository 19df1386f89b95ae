"""Run records: which process runs which engine, and when one says nothing any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.interface import GpuProcess, MigSlice
from enginekeeper.fleet.processes import ProcessTable
from enginekeeper.fleet.running import running_engines
from enginekeeper.fleet.runs import live_pid, record_run, run_records
from registry.digests import digest_bytes
from tests.factories.inventories import device
from tests.fakes.proc import FakeProc

ENGINE = digest_bytes(b"engine")
PLACE = Path("/engines/m")


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """Processes 1, 100 and its child 200."""
    made = FakeProc(tmp_path / "proc")
    for pid, parent in ((1, 0), (100, 1), (200, 100)):
        made.put(pid, start=1000 + pid, parent=parent)
    return made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_record_names_this_very_process(tmp_path: Path) -> None:
    file = record_run(tmp_path, ENGINE, PLACE)
    (record,) = run_records(tmp_path)
    assert (record.engine, record.path, record.file) == (ENGINE, PLACE, file)
    assert live_pid(record, ProcessTable()) == os.getpid()
    assert record.start_time == ProcessTable().start_time(os.getpid())


def test_a_record_ends_with_its_process(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record_run(tmp_path, ENGINE, PLACE, pid=sleeper.pid)
    (record,) = run_records(tmp_path)
    assert live_pid(record, ProcessTable()) == sleeper.pid
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # a zombie: it runs nothing
    assert live_pid(record, ProcessTable()) is None


def test_a_number_that_was_given_out_again_is_no_evidence(tmp_path: Path, proc: FakeProc) -> None:
    record_run(tmp_path, ENGINE, PLACE, pid=100, processes=proc.table)
    (record,) = run_records(tmp_path)
    assert live_pid(record, proc.table) == 100
    proc.put(100, start=7777)
    assert live_pid(record, proc.table) is None


def test_a_record_of_an_earlier_boot_is_no_evidence(tmp_path: Path, proc: FakeProc) -> None:
    record_run(tmp_path, ENGINE, PLACE, pid=100, processes=proc.table)
    proc.boot("another")
    (record,) = run_records(tmp_path)
    assert live_pid(record, proc.table) is None


def test_a_process_of_a_container_is_found_by_its_number_there(
    tmp_path: Path, proc: FakeProc
) -> None:
    inside = FakeProc(tmp_path / "inside", namespace="pid:[2]")
    inside.put(1, start=1200, namespace="pid:[2]")
    record_run(tmp_path, ENGINE, PLACE, pid=1, processes=inside.table)
    (record,) = run_records(tmp_path)
    proc.put(200, start=1200, namespace="pid:[2]", inner=1)
    proc.put(300, start=1200, namespace="pid:[3]", inner=1)  # another container, the same moment
    assert live_pid(record, proc.table) == 200


def test_the_next_record_removes_those_that_ended_and_no_others(
    tmp_path: Path, proc: FakeProc
) -> None:
    record_run(tmp_path, ENGINE, PLACE, pid=100, processes=proc.table)
    record_run(tmp_path, ENGINE, PLACE, pid=200, processes=proc.table)
    proc.end(100)
    record_run(tmp_path, ENGINE, PLACE, pid=1, processes=proc.table)
    assert sorted(one.pid for one in run_records(tmp_path)) == [1, 200]


def test_a_process_that_is_not_there_gets_no_record(tmp_path: Path, proc: FakeProc) -> None:
    with pytest.raises(UnavailableError, match="which process"):
        record_run(tmp_path, ENGINE, PLACE, pid=999, processes=proc.table)
    assert list(run_records(tmp_path)) == []


@pytest.mark.parametrize(
    "change", [{"pid": "7"}, {"pid": -1}, {"pid": True}, {"engine": "x"}, {"started_at": 5}]
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    file = record_run(tmp_path, ENGINE, PLACE)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match="run record") as caught:
        list(run_records(tmp_path))
    assert caught.value.where == str(file)


def test_an_engine_is_confirmed_by_a_process_that_its_own_one_started(
    tmp_path: Path, proc: FakeProc
) -> None:
    record_run(tmp_path, ENGINE, PLACE, pid=100, processes=proc.table)
    gpus = (device(0), device(1, processes=(GpuProcess(200, 5),)))
    (found,) = running_engines(run_records(tmp_path), gpus, proc.table)
    assert (found.pid, found.evidence, found.devices) == (100, "confirmed", (gpus[1].uuid,))


def test_an_engine_that_no_gpu_shows_is_declared(tmp_path: Path, proc: FakeProc) -> None:
    record_run(tmp_path, ENGINE, PLACE, pid=200, processes=proc.table)
    gpus = (device(0, processes=(GpuProcess(100, 5), GpuProcess(4711, 5))),)
    (found,) = running_engines(run_records(tmp_path), gpus, proc.table)
    assert (found.evidence, found.devices) == ("declared", ())


def test_a_slice_is_named_and_not_its_gpu(tmp_path: Path, proc: FakeProc) -> None:
    record_run(tmp_path, ENGINE, PLACE, pid=100, processes=proc.table)
    gpu = device(
        mig=True, slices=(MigSlice("MIG-1", "1g.10gb"),), processes=(GpuProcess(100, 5, "MIG-1"),)
    )
    (found,) = running_engines(run_records(tmp_path), [gpu], proc.table)
    assert found.devices == ("MIG-1",)


@pytest.mark.parametrize("image", ["a\x1b[2J", "a" * 501])
def test_what_is_no_name_of_an_image_is_refused(tmp_path: Path, image: str) -> None:
    with pytest.raises(InputError, match="container image"):
        record_run(tmp_path, digest_bytes(b"engine"), tmp_path, image=image)
    assert not (tmp_path / "runs").exists()
