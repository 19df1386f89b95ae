"""The real NVML, through nvidia-ml-py; the only module that imports pynvml.

Not run on a GPU yet: written against the documented calls (docs say where it has run).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.interface import Device, DriverState, NullNvml, Nvml


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
        # 12040 means 12.4: nvml.h, NVML_CUDA_DRIVER_VERSION_MAJOR and _MINOR
        return DriverState(version=version, cuda=f"{cuda // 1000}.{cuda % 1000 // 10}")

    def devices(self) -> tuple[Device, ...]:
        """Returns every GPU; raises UnavailableError for one that fell off the bus."""
        try:
            return tuple(self._device(index) for index in range(pynvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError as error:
            raise UnavailableError(
                f"a GPU does not answer: {error}",
                remedy="check `dmesg` for an Xid and drain the node",
            ) from error

    def _device(self, index: int) -> Device:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        mig = _supported(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
        vbios = _supported(lambda: pynvml.nvmlDeviceGetVbiosVersion(handle))
        return Device(
            index=index,
            uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
            product=str(pynvml.nvmlDeviceGetName(handle)),
            compute_capability=f"{major}.{minor}",
            memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            mig=None if mig is None else bool(mig),
            vbios=None if vbios is None else str(vbios),
        )


def _supported(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - pynvml is untyped
    try:
        return call()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return None
