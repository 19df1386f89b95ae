"""The real NVML, through nvidia-ml-py; the only module that imports pynvml.

It has run against a C library that answers in NVML's place (tests/fakes/nvml), on no GPU yet.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pynvml

from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.interface import (
    NOT_SUPPORTED,
    Device,
    DriverState,
    GpuProcess,
    LostDevice,
    MigSlice,
    NullNvml,
    Nvml,
    Scan,
    XidEvent,
)

SIMULATION_MARK = "enginekeeper_simulated_nvml"
"""A symbol that the stand-in exports and NVIDIA's library does not."""

_WAIT_MS = 1000
"""How long one wait for an event is: so soon is noticed that nobody wants to hear more."""

_GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)


def open_nvml() -> Nvml:
    """Returns the node's NVML, or the null one where the library is not installed.

    Raises UnavailableError when NVML is there but does not start, e.g. right after a
    driver update, when library and kernel module differ.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return NullNvml()
    except pynvml.NVMLError as error:
        raise UnavailableError(
            f"NVML does not start: {error}",
            remedy="after a driver update reboot the node or reload the kernel module",
        ) from error
    return RealNvml()


class RealNvml:
    """Reads an initialized NVML."""

    @property
    def simulated(self) -> bool:
        """True where the library that was loaded says that it is a stand-in."""
        return hasattr(pynvml.nvmlLib, SIMULATION_MARK)

    def driver(self) -> DriverState | None:
        """Returns driver and CUDA version; raises UnavailableError when the driver is silent."""
        try:
            cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
            version = str(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError as error:
            raise UnavailableError(
                f"the driver does not answer: {error}",
                remedy="check `dmesg`, and reload the kernel module or reboot the node",
            ) from error
        try:
            branch = _text(pynvml.nvmlSystemGetDriverBranch().branch)
        except pynvml.NVMLError:  # drivers before R555 do not know the call
            branch = None
        # 12040 means 12.4: nvml.h, NVML_CUDA_DRIVER_VERSION_MAJOR and _MINOR
        return DriverState(version, f"{cuda // 1000}.{cuda % 1000 // 10}", branch)

    def scan(self) -> Scan:
        """Returns every GPU; raises UnavailableError where they cannot even be counted."""
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            raise UnavailableError(
                f"the GPUs cannot be counted: {error}",
                remedy="check `dmesg` for an Xid and drain the node",
            ) from error
        found = [_device_or_lost(index) for index in range(count)]
        return Scan(
            tuple(one for one in found if isinstance(one, Device)),
            tuple(one for one in found if isinstance(one, LostDevice)),
        )


def listen_for_xids(
    tell: Callable[[XidEvent], None],
    going_on: Callable[[], bool],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Tells of each Xid of this node's GPUs from now on, while it is to go on.

    NVML tells of what comes after somebody listens, and of nothing before. While it listens the
    driver is in use: it can be neither unloaded nor a GPU reset. Raises UnavailableError where
    NVML does not start or ends, as at a new driver.
    """
    if isinstance(open_nvml(), NullNvml):
        return
    try:
        events, known = pynvml.nvmlEventSetCreate(), dict[int, str]()
        for index in range(pynvml.nvmlDeviceGetCount()):
            _listen_to(index, events, known, lambda one: tell(replace(one, at=_text_of(now()))))
        while known and going_on():
            try:
                data = pynvml.nvmlEventSetWait_v2(events, _WAIT_MS)
            except pynvml.NVMLError_Timeout:
                continue
            # a GPU that fell off the bus names itself no more: its handle is still the same
            uuid = known.get(_address(data.device))
            if uuid is not None and data.eventType == pynvml.nvmlEventTypeXidCriticalError:
                tell(XidEvent(uuid, int(data.eventData), _text_of(now())))
    except pynvml.NVMLError as error:
        raise UnavailableError(f"NVML tells of no Xids: {error}") from error


def _listen_to(
    index: int, events: object, known: dict[int, str], tell: Callable[[XidEvent], None]
) -> None:
    """Has the errors of one GPU told; says why where that is not supported."""
    kind = pynvml.nvmlEventTypeXidCriticalError
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError:  # it is lost: whoever looks at the GPUs says so
        return
    try:
        if pynvml.nvmlDeviceGetSupportedEventTypes(handle) & kind:
            pynvml.nvmlDeviceRegisterEvents(handle, kind, events)
            known[_address(handle)] = uuid
            return
        why = NOT_SUPPORTED
    except pynvml.NVMLError as error:
        why = str(error)
    tell(XidEvent(uuid, None, "", why))


def _address(handle: object) -> int:
    """Returns where a handle points: two objects of ctypes for one are not equal."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _text_of(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _device_or_lost(index: int) -> Device | LostDevice:
    try:
        return _device(index, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError as error:
        return LostDevice(index, str(error))


def _device(index: int, handle: object) -> Device:
    read = _Reading()
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    mig = read("mig", lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    slices = read("slices", lambda: _slices(handle)) or () if mig else ()
    return Device(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        product=_text(pynvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        # a GPU that shares the CPU's memory says that this is not supported
        memory_bytes=read("memory_bytes", lambda: _memory(handle)),
        mig=None if mig is None else bool(mig),
        vbios=read("vbios", lambda: _text(pynvml.nvmlDeviceGetVbiosVersion(handle))),
        gsp_firmware=read(
            "gsp_firmware", lambda: _text(pynvml.nvmlDeviceGetGspFirmwareVersion(handle))
        ),
        serial=read("serial", lambda: _text(pynvml.nvmlDeviceGetSerial(handle))),
        pci=read("pci", lambda: _text(pynvml.nvmlDeviceGetPciInfo(handle).busId)),
        ecc=read("ecc", lambda: bool(pynvml.nvmlDeviceGetEccMode(handle)[0])),
        ecc_errors=read("ecc_errors", lambda: _uncorrected(handle)),
        nvlinks=read("nvlinks", lambda: _links(handle)),
        rows_pending=read("rows_pending", lambda: bool(_rows(handle)[2])),
        rows_failed=read("rows_failed", lambda: bool(_rows(handle)[3])),
        slices=tuple(one for _, one in slices),
        processes=_all_processes(handle, slices, read),
        unread=read.why,
    )  # fmt: skip


class _Reading:
    """Makes calls that may fail; what failed is None, and why is kept."""

    def __init__(self) -> None:
        self.why: dict[str, str] = {}

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - pynvml is untyped
        try:
            return call()
        except pynvml.NVMLError as error:
            if error.value in _GONE:
                raise  # no value is missing: the whole device is
            self.why[name] = str(error)
            return None


def _text(value: Any) -> str:  # noqa: ANN401 - pynvml is untyped
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _memory(handle: object) -> int:
    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


def _uncorrected(handle: object) -> int:
    kind, since = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))


def _links(handle: object) -> int:
    """Counts the NVLinks that are up; the numbers of a GPU's links end at an invalid one."""
    active = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            active += int(pynvml.nvmlDeviceGetNvLinkState(handle, link))
        except pynvml.NVMLError_InvalidArgument:
            break
    return active


def _rows(handle: object) -> tuple[int, int, int, int]:
    """Returns how many rows were replaced after errors of two kinds, and the two flags."""
    corrected, uncorrected, pending, failed = pynvml.nvmlDeviceGetRemappedRows(handle)
    return int(corrected), int(uncorrected), int(pending), int(failed)


def _slices(handle: object) -> tuple[tuple[object, MigSlice], ...]:
    """Returns the handle of each slice with what it is."""
    found = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            one = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError_NotFound:
            continue  # this place is empty
        # NVML names a slice `NVIDIA A100-SXM4-40GB MIG 1g.5gb`
        _, _, profile = _text(pynvml.nvmlDeviceGetName(one)).rpartition(" MIG ")
        found.append((one, MigSlice(_text(pynvml.nvmlDeviceGetUUID(one)), profile)))
    return tuple(found)


def _all_processes(
    handle: object, slices: Sequence[tuple[object, MigSlice]], read: _Reading
) -> tuple[GpuProcess, ...]:
    """Returns the processes of a GPU, those of slices first, each by its slice.

    NVML lists those of all slices for the GPU, where the caller may see them, and says by the
    slice's own handle which are its own.
    """
    found: list[GpuProcess] = []
    for one, slice_ in slices:
        found += read("processes", partial(_processes, one, slice_.uuid)) or ()
    known = {one.pid for one in found}
    whole = read("processes", partial(_processes, handle)) or ()
    return (*found, *(one for one in whole if one.pid not in known))


def _processes(handle: object, slice_uuid: str | None = None) -> tuple[GpuProcess, ...]:
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    return tuple(GpuProcess(int(one.pid), one.usedGpuMemory, slice_uuid) for one in listed)
