"""NVML where there is no GPU, and how what it says is read."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.fleet import nvml
from enginekeeper.fleet.interface import Device, DriverState, LostDevice, NullNvml, Scan
from enginekeeper.fleet.nvml import RealNvml, open_nvml

pynvml: Any = vars(nvml)["pynvml"]  # imported in that one module only
Fake = Callable[..., None]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Replaces calls of the library; an exception is raised, anything else returned."""

    def replace(**answers: Any) -> None:  # noqa: ANN401 - whatever NVML returns
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, f"nvml{name}", _answering(answer))

    return replace


def _answering(answer: Any) -> Callable[..., Any]:  # noqa: ANN401 - whatever NVML returns
    def call(*_arguments: object) -> Any:  # noqa: ANN401 - whatever NVML returns
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


def error(code: str) -> Exception:
    failure: Exception = pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{code}"))
    return failure


def test_a_node_without_the_library_has_no_gpu(fake: Fake) -> None:
    fake(Init=error("LIBRARY_NOT_FOUND"))
    found = open_nvml()
    assert isinstance(found, NullNvml)
    assert found.driver() is None
    assert found.scan() == Scan()
    assert not found.simulated


@pytest.mark.parametrize("code", ["DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH", "UNKNOWN"])
def test_an_nvml_that_does_not_start_is_not_taken_for_no_gpu(fake: Fake, code: str) -> None:
    fake(Init=error(code))
    with pytest.raises(UnavailableError, match="NVML does not start"):
        open_nvml()


@pytest.mark.parametrize(
    ("number", "text"), [(13000, "13.0"), (12040, "12.4"), (12090, "12.9"), (13010, "13.1")]
)
def test_the_cuda_version_is_read_from_its_number(fake: Fake, number: int, text: str) -> None:
    fake(Init=None, SystemGetCudaDriverVersion_v2=number, SystemGetDriverVersion="580.95.05")
    fake(SystemGetDriverBranch=error("FUNCTION_NOT_FOUND"))
    assert open_nvml().driver() == DriverState("580.95.05", text, branch=None)


@pytest.mark.parametrize("call", ["SystemGetCudaDriverVersion_v2", "SystemGetDriverVersion"])
def test_a_silent_driver_is_said_plainly(fake: Fake, call: str) -> None:
    fake(SystemGetCudaDriverVersion_v2=13000, SystemGetDriverVersion="580.95.05")
    fake(**{call: error("UNKNOWN")})
    with pytest.raises(UnavailableError, match="driver does not answer"):
        RealNvml().driver()


def test_what_a_device_does_not_support_is_none_and_never_a_guess(fake: Fake) -> None:
    fake(
        DeviceGetCount=1, DeviceGetHandleByIndex="handle", DeviceGetUUID="GPU-1",
        DeviceGetName="NVIDIA L40S", DeviceGetCudaComputeCapability=(8, 9),
        DeviceGetMemoryInfo=SimpleNamespace(total=48_000_000_000),
        DeviceGetMigMode=error("NOT_SUPPORTED"),
        DeviceGetVbiosVersion=error("FUNCTION_NOT_FOUND"),
        DeviceGetGspFirmwareVersion=error("NO_PERMISSION"), DeviceGetSerial=b"165",
        DeviceGetPciInfo=error("UNKNOWN"), DeviceGetEccMode=[0, 0],
        DeviceGetTotalEccErrors=error("NOT_SUPPORTED"),
        DeviceGetNvLinkState=error("NOT_SUPPORTED"),
        DeviceGetRemappedRows=error("NOT_SUPPORTED"),
        DeviceGetComputeRunningProcesses_v3=error("NOT_SUPPORTED"),
    )  # fmt: skip
    assert RealNvml().scan() == Scan((
        Device(
            0, "GPU-1", "NVIDIA L40S", "8.9", 48_000_000_000, mig=None, vbios=None, serial="165",
            ecc=False, unread={
                "mig": "Not Supported", "vbios": "Function Not Found",
                "gsp_firmware": "Insufficient Permissions", "pci": "Unknown Error",
                "ecc_errors": "Not Supported", "nvlinks": "Not Supported",
                    "rows_pending": "Not Supported", "rows_failed": "Not Supported",
                "processes": "Not Supported",
            },
        ),
    ))  # fmt: skip


def test_a_gpu_that_fell_off_the_bus_is_among_the_lost(fake: Fake) -> None:
    fake(DeviceGetCount=1, DeviceGetHandleByIndex=error("GPU_IS_LOST"))
    assert RealNvml().scan() == Scan(lost=(LostDevice(0, "GPU is lost"),))


def test_gpus_that_cannot_be_counted_are_said_plainly(fake: Fake) -> None:
    fake(DeviceGetCount=error("UNKNOWN"))
    with pytest.raises(UnavailableError, match="cannot be counted"):
        RealNvml().scan()
