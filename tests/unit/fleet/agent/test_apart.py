"""NVML in a process of its own: the same answers, and an end to waiting."""

from __future__ import annotations

import os
import time

import pytest

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.agent.apart import NvmlApart
from enginekeeper.fleet.interface import (
    DriverState,
    GpuProcess,
    LostDevice,
    MigSlice,
    NullNvml,
    Nvml,
    Scan,
)
from tests.factories.inventories import R580, device

FULL = Scan(
    (device(mig=True, slices=(MigSlice("MIG-1", "1g.10gb"),), unread={"ecc": "Not Supported"},
            processes=(GpuProcess(7, None, "MIG-1"),)), device(1)),
    (LostDevice(2, "GPU is lost"),),
)  # fmt: skip


class Told:
    """An NVML that says what a test wants."""

    simulated = True

    def __init__(self, driver: DriverState | str | None = R580, scan: Scan | str = FULL) -> None:
        self._driver, self._scan = driver, scan

    def driver(self) -> DriverState | None:
        if isinstance(self._driver, str):
            raise UnavailableError(self._driver, remedy="look")
        return self._driver

    def scan(self) -> Scan:
        if isinstance(self._scan, str):
            raise UnavailableError(self._scan, remedy="look")
        return self._scan


def test_everything_comes_through_as_it_was() -> None:
    found = NvmlApart(Told)()
    assert (found.simulated, found.driver(), found.scan()) == (True, R580, FULL)


def test_no_gpu_comes_through_as_none() -> None:
    found = NvmlApart(NullNvml)()
    assert (found.simulated, found.driver(), found.scan()) == (False, None, Scan())


def test_what_nvml_raises_is_raised_where_it_was() -> None:
    with pytest.raises(UnavailableError, match="silent") as caught:
        NvmlApart(lambda: Told("silent"))().driver()
    assert caught.value.remedy == "look"
    found = NvmlApart(lambda: Told(scan="not countable"))()
    assert found.driver() == R580
    with pytest.raises(UnavailableError, match="not countable"):
        found.scan()

    def closed() -> Nvml:
        raise UnavailableError("NVML does not start")

    with pytest.raises(UnavailableError, match="does not start"):
        NvmlApart(closed)()


def test_a_call_that_hangs_is_ended_and_the_next_is_tried() -> None:
    answers = iter([True, False])

    def hanging() -> Nvml:
        time.sleep(60)
        return Told()

    apart = NvmlApart(lambda: hanging() if hang else Told(), seconds=0.2)
    for hang in answers:
        if hang:
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="did not answer"):
                apart()
            assert time.monotonic() - began < 5
        else:
            assert apart().driver() == R580


def test_a_process_that_cannot_be_ended_is_not_joined_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pids: list[int] = []
    monkeypatch.setattr("enginekeeper.fleet.agent.apart.os.kill", lambda pid, _: pids.append(pid))

    def stuck() -> Nvml:
        time.sleep(2.5)  # as in the kernel's hands
        return Told()

    apart = NvmlApart(stuck, seconds=0.1)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="did not answer"):
            apart()
    assert len(pids) == 1
    os.waitpid(pids[0], 0)


def test_a_file_that_is_not_what_it_should_be_is_named() -> None:
    def damaged() -> Nvml:
        raise InputError("not the machine info", remedy="write it anew")

    with pytest.raises(UnavailableError, match="not the machine info") as caught:
        NvmlApart(damaged)()
    assert caught.value.remedy == "write it anew"


def test_a_library_that_crashes_ends_its_own_process_alone() -> None:
    with pytest.raises(UnavailableError, match="without an answer") as caught:
        NvmlApart(lambda: os._exit(7))()
    assert caught.value.actual == "exit code 7"
