"""Reads NVML in a process of its own, each time anew, and waits only so long for it.

An agent that stays must not do it itself: a driver call may hang; a driver cannot be unloaded
while its library is open; and after an update the library that a process once loaded and the
kernel's module differ until that process ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.interface import (
    Device,
    DriverState,
    GpuProcess,
    LostDevice,
    MigSlice,
    Nvml,
    Scan,
)

_PIECE = 64 * 1024


@dataclass(frozen=True)
class ReadNvml:
    """What NVML said when it was read; the same whenever it is asked."""

    simulated: bool
    answer: DriverState | UnavailableError | None
    devices: Scan | UnavailableError

    def driver(self) -> DriverState | None:
        """Returns the driver; raises what NVML raised."""
        if isinstance(self.answer, UnavailableError):
            raise self.answer
        return self.answer

    def scan(self) -> Scan:
        """Returns the GPUs; raises what NVML raised."""
        if isinstance(self.devices, UnavailableError):
            raise self.devices
        return self.devices


class NvmlApart:
    """Opens NVML in a child; one that hangs is killed, and while it is not dead none is started."""

    def __init__(self, open_nvml: Callable[[], Nvml], *, seconds: float = 30.0) -> None:
        self._open = open_nvml
        self._seconds = seconds
        self._hung: int | None = None

    def __call__(self) -> Nvml:
        """Returns what NVML says now; raises UnavailableError where it says nothing in time."""
        if self._hung is not None:
            if not _ended(self._hung):
                raise self._silent("and the process that asked cannot be ended")
            self._hung = None
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _tell(self._open, writer)
        os.close(writer)
        try:
            data = _all_of(reader, time.monotonic() + self._seconds)
        finally:
            os.close(reader)
        if data is None:
            os.kill(child, signal.SIGKILL)
            self._hung = None if _ended(child, seconds=1.0) else child
            raise self._silent("the process that asked was ended")
        _, status = os.waitpid(child, 0)
        if not data:
            raise UnavailableError(
                "reading NVML ended without an answer",
                actual=f"exit code {os.waitstatus_to_exitcode(status)}",
                remedy="see the agent's log for what its library wrote",
            )
        return _understood(json.loads(data))

    def _silent(self, how: str) -> UnavailableError:
        return UnavailableError(
            f"NVML did not answer for {self._seconds:.0f} s, {how}",
            remedy="check `dmesg` for an Xid and drain the node",
        )


def _tell(open_nvml: Callable[[], Nvml], writer: int) -> NoReturn:
    """Writes what NVML says into a pipe, in the child, and ends it without cleaning up twice."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        data = json.dumps(_said(open_nvml)).encode()
        while data:
            data = data[os.write(writer, data) :]
        code = 0
    finally:
        os._exit(code)


def _said(open_nvml: Callable[[], Nvml]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    try:
        nvml = open_nvml()
        said["simulated"] = nvml.simulated
        driver = nvml.driver()
        said["driver"] = None if driver is None else asdict(driver)
        said["scan"] = asdict(nvml.scan())
    except (UnavailableError, InputError) as error:  # the second of files that others wrote
        said["problem"] = [error.what, error.remedy]
    return said


def _understood(said: dict[str, Any]) -> Nvml:
    problem = UnavailableError(said["problem"][0], remedy=said["problem"][1]) if (
        "problem" in said
    ) else None  # fmt: skip
    if problem is not None and "simulated" not in said:
        raise problem
    driver = said.get("driver")
    answer = problem if "driver" not in said else None if driver is None else DriverState(**driver)
    found = said.get("scan")
    scan = problem if found is None else Scan(
        tuple(_device(one) for one in found["devices"]),
        tuple(LostDevice(**one) for one in found["lost"]),
    )  # fmt: skip
    assert scan is not None  # noqa: S101 - it was read, or the problem says why not
    return ReadNvml(said["simulated"], answer, scan)


def _device(fields: dict[str, Any]) -> Device:
    slices = tuple(MigSlice(**one) for one in fields["slices"])
    processes = tuple(GpuProcess(**one) for one in fields["processes"])
    return Device(**{**fields, "slices": slices, "processes": processes})


def _all_of(reader: int, until: float) -> bytes | None:
    """Returns what comes through a pipe until it is closed; None if that is not in time."""
    pieces: list[bytes] = []
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        piece = os.read(reader, _PIECE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def _ended(pid: int, *, seconds: float = 0.0) -> bool:
    """Says whether a child has ended, waiting for it so long."""
    until = time.monotonic() + seconds
    while True:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.01)
