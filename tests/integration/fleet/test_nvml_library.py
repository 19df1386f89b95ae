"""The real nvidia-ml-py against a C library in NVML's place: no call of it is replaced."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

A100 = SimulatedGpu(
    uuid="GPU-51a11a7e-1", name="NVIDIA A100-SXM4-40GB", capability="8 0", mig=1,
    slices=(("MIG-51a11a7e-a", "1g.5gb"), ("MIG-51a11a7e-b", "2g.10gb")),
    processes=((4711, 1_000_000, 0), (4712, 2_000_000, 1), (4713, 3_000_000)), nvlinks=12,
    rows="1 2 1 0",
)  # fmt: skip

READER = """
import json, sys
from dataclasses import asdict
from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.nvml import open_nvml
nvml = None
for _ in sys.stdin:
    try:
        nvml = nvml or open_nvml()
        driver = nvml.driver()
        said = {"kind": type(nvml).__name__, "simulated": nvml.simulated,
                "driver": driver and asdict(driver), **asdict(nvml.scan())}
    except UnavailableError as error:
        said = {"error": str(error)}
    print(json.dumps(said), flush=True)
"""


class Reader:
    """A process that reads NVML whenever it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("read\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said


@contextmanager
def reading(environment: dict[str, str]) -> Iterator[Reader]:
    with subprocess.Popen(
        [sys.executable, "-c", READER], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield Reader(process)
        process.terminate()


def test_everything_of_a_gpu_is_read(nvml: SimulatedNvml, environment: dict[str, str]) -> None:
    nvml.set(SimulatedGpu(), A100)
    with reading(environment) as reader:
        said = reader.read()

    first, second = said["devices"]
    assert (said["kind"], said["simulated"], said["lost"]) == ("RealNvml", True, [])
    assert said["driver"] == {"version": "580.95.05", "cuda": "13.0", "branch": "r580_00"}
    assert first == {
        "index": 0, "uuid": "GPU-51a11a7e-0000-0000-0000-000000000000",
        "product": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0",
        "memory_bytes": 85_520_809_984, "mig": False, "vbios": "96.00.74.00.01",
        "gsp_firmware": "580.95.05", "serial": "1650000000001", "pci": "00000000:18:00.0",
        "ecc": True, "ecc_errors": 0, "nvlinks": 18, "rows_pending": False,
        "rows_failed": False, "xid": None, "xid_at": None, "slices": [], "processes": [],
        "unread": {},
    }  # fmt: skip
    assert second["slices"] == [
        {"uuid": "MIG-51a11a7e-a", "profile": "1g.5gb"},
        {"uuid": "MIG-51a11a7e-b", "profile": "2g.10gb"},
    ]
    assert second["processes"] == [
        {"pid": 4711, "memory_bytes": 1_000_000, "slice_uuid": "MIG-51a11a7e-a"},
        {"pid": 4712, "memory_bytes": 2_000_000, "slice_uuid": "MIG-51a11a7e-b"},
        {"pid": 4713, "memory_bytes": 3_000_000, "slice_uuid": None},
    ]
    assert (second["mig"], second["nvlinks"]) == (True, 12)
    assert (second["rows_pending"], second["rows_failed"]) == (True, False)


def test_a_driver_that_changes_under_a_process_is_seen(
    nvml: SimulatedNvml, environment: dict[str, str]
) -> None:
    with reading(environment) as reader:
        before = reader.read()["driver"]
        nvml.set(driver="595.71.05", cuda=13020, branch="r595_70")
        after = reader.read()["driver"]
    assert before == {"version": "580.95.05", "cuda": "13.0", "branch": "r580_00"}
    assert after == {"version": "595.71.05", "cuda": "13.2", "branch": "r595_70"}


def test_a_gpu_that_falls_off_the_bus_leaves_the_others(
    nvml: SimulatedNvml, environment: dict[str, str]
) -> None:
    nvml.set(SimulatedGpu(), A100)
    with reading(environment) as reader:
        assert len(reader.read()["devices"]) == 2
        nvml.set(SimulatedGpu(lost=79), A100)
        said = reader.read()
    assert [one["uuid"] for one in said["devices"]] == [A100.uuid]
    assert said["lost"] == [{"index": 0, "reason": "GPU is lost"}]


def test_a_gpu_that_is_lost_in_the_middle_of_being_read_is_lost(
    nvml: SimulatedNvml, environment: dict[str, str]
) -> None:
    nvml.set(SimulatedGpu(errors={"nvmlDeviceGetVbiosVersion": 15}))
    with reading(environment) as reader:
        said = reader.read()
    assert (said["devices"], said["lost"]) == ([], [{"index": 0, "reason": "GPU is lost"}])


def test_what_is_not_supported_or_not_permitted_is_none_and_said(
    nvml: SimulatedNvml, environment: dict[str, str]
) -> None:
    nvml.set(
        SimulatedGpu(
            name="NVIDIA GB10", capability="12 1", memory=None, mig=None, ecc=None, ecc_errors=None,
            nvlinks=None, rows=None,
            errors={"nvmlDeviceGetSerial": 4, "nvmlDeviceGetGspFirmwareVersion": 13,
                    "nvmlDeviceGetComputeRunningProcesses_v3": 4},
        ),
        branch=None,
    )  # fmt: skip
    with reading(environment) as reader:
        said = reader.read()
    (device,) = said["devices"]
    assert said["driver"]["branch"] is None
    assert device["memory_bytes"] is device["mig"] is device["ecc"] is device["serial"] is None
    assert device["unread"] == {
        **dict.fromkeys(
            ("memory_bytes", "mig", "ecc", "ecc_errors", "nvlinks", "rows_pending", "rows_failed"),
            "Not Supported",
        ),
        **dict.fromkeys(("serial", "processes"), "Insufficient Permissions"),
        "gsp_firmware": "Function Not Found",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({"nvmlInitWithFlags": 18}, "RM has detected an NVML/RM version mismatch"),
        ({"nvmlInitWithFlags": 9}, "NVML does not start: Driver Not Loaded"),
        ({"nvmlSystemGetDriverVersion": 999}, "the driver does not answer"),
        ({"nvmlDeviceGetCount_v2": 999}, "the GPUs cannot be counted"),
    ],
)
def test_a_driver_that_does_not_work_is_said_with_what_to_do(
    nvml: SimulatedNvml, environment: dict[str, str], errors: dict[str, int], words: str
) -> None:
    nvml.set(SimulatedGpu(), errors=errors)
    with reading(environment) as reader:
        said = reader.read()["error"]
    assert words in said
    assert "next:" in said


def test_without_the_library_there_is_no_gpu(environment: dict[str, str]) -> None:
    environment.pop("LD_LIBRARY_PATH")
    with reading(environment) as reader:
        said = reader.read()
    if said["kind"] == "RealNvml":
        pytest.skip("this machine has an NVML of its own")
    assert (said["kind"], said["simulated"], said["devices"]) == ("NullNvml", False, [])


def test_the_stand_in_does_not_start_where_no_file_is_named(environment: dict[str, str]) -> None:
    environment.pop("ENGINEKEEPER_SIMULATED_NVML")
    with reading(environment) as reader:
        assert "Driver Not Loaded" in reader.read()["error"]


LISTENER = """
import json, sys
from dataclasses import asdict
from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.nvml import listen_for_xids
left = [int(sys.argv[1])]
def tell(one):
    left[0] -= 1
    print(json.dumps(asdict(one)), flush=True)
try:
    listen_for_xids(tell, lambda: print("listening", file=sys.stderr, flush=True) or left[0] > 0)
except UnavailableError as error:
    print(json.dumps({"error": str(error)}))
"""


@contextmanager
def listening(environment: dict[str, str], count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that tells of so many errors, and has begun to listen."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER, str(count)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stderr.readline() == "listening\n"
        yield process


def heard(process: subprocess.Popen[str]) -> list[tuple[str, int | None, str | None]]:
    said, _ = process.communicate(timeout=20)
    found = [json.loads(line) for line in said.splitlines()]
    return [(one["uuid"], one["xid"], one["why"]) for one in found]


def test_whoever_listens_hears_what_comes_and_nothing_that_was_before(
    nvml: SimulatedNvml, environment: dict[str, str]
) -> None:
    nvml.set(SimulatedGpu(xids=(13,)), A100)
    with listening(environment, 3) as process:
        nvml.set(SimulatedGpu(xids=(13, 31)), replace(A100, xids=(63,)))
        nvml.set(SimulatedGpu(xids=(13, 31)), replace(A100, xids=(63,), lost=79))
        said = heard(process)
    assert sorted(said) == sorted([
        (SimulatedGpu().uuid, 31, None), (A100.uuid, 63, None), (A100.uuid, 79, None),
    ])  # fmt: skip


def test_a_gpu_that_tells_no_errors_says_why(
    nvml: SimulatedNvml, environment: dict[str, str]
) -> None:
    nvml.set(
        SimulatedGpu(errors={"nvmlDeviceRegisterEvents": 3}),
        replace(A100, errors={"nvmlDeviceGetSupportedEventTypes": 4}),
        SimulatedGpu(uuid="GPU-2", lost=79),
        SimulatedGpu(uuid="GPU-3"),
    )
    with listening(environment, 3) as process:
        nvml.set(SimulatedGpu(), A100, SimulatedGpu(uuid="GPU-2", lost=79),
                 SimulatedGpu(uuid="GPU-3", xids=(48,)))  # fmt: skip
        said = heard(process)
    assert said == [
        (SimulatedGpu().uuid, None, "Not Supported"),
        (A100.uuid, None, "Insufficient Permissions"),
        ("GPU-3", 48, None),
    ]
