"""A stand-in for NVML in C: compiled once, and driven by a file that may change at any time.

Always simulated: it exports a mark by which whoever loads it knows, and nothing but tests builds
it. A process that is to see it is started with `environment()`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SOURCE = Path(__file__).with_name("nvml") / "nvml.c"


@dataclass(frozen=True)
class SimulatedGpu:
    """One GPU; None is what it does not support."""

    uuid: str = "GPU-51a11a7e-0000-0000-0000-000000000000"
    name: str = "NVIDIA H100 80GB HBM3"
    capability: str = "9 0"
    memory: int | None = 85_520_809_984
    mig: int | None = 0
    vbios: str | None = "96.00.74.00.01"
    gsp: str | None = "580.95.05"
    serial: str | None = "1650000000001"
    pci: str | None = "00000000:18:00.0"
    ecc: int | None = 1
    ecc_errors: int | None = 0
    nvlinks: int | None = 18
    rows: str | None = "0 0 0 0"
    """Memory rows replaced after corrected and uncorrected errors, pending, failed."""
    slices: Sequence[tuple[str, str]] = ()
    """UUID and profile of each."""
    processes: Sequence[tuple[int, ...]] = ()
    """Process id and bytes of each, and the number of its slice where the GPU is split."""
    errors: dict[str, int] = field(default_factory=dict)
    """Name of a call to the code it returns."""
    xids: Sequence[int] = ()
    """Errors so far; whoever listens is told of those that are added."""
    lost: int | None = None
    """The Xid with which it fell off the bus: every call fails."""


@dataclass(frozen=True)
class SimulatedNvml:
    """A compiled library and the file it reads."""

    library: Path
    """The directory that holds it."""
    state: Path

    def set(
        self,
        *gpus: SimulatedGpu,
        driver: str = "580.95.05",
        cuda: int = 13000,
        branch: str | None = "r580_00",
        errors: dict[str, int] | None = None,
    ) -> None:
        """Says what the node is from now on, also to processes that run."""
        lines = [f"driver {driver}", f"cuda {cuda}"]
        lines += [] if branch is None else [f"branch {branch}"]
        lines += [f"error {call} {code}" for call, code in (errors or {}).items()]
        for gpu in gpus:
            lines += _lines(gpu)
        draft = self.state.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self.state)

    def environment(self) -> dict[str, str]:
        """Returns the variables with which a process finds it."""
        return {
            "LD_LIBRARY_PATH": str(self.library),
            "ENGINEKEEPER_SIMULATED_NVML": str(self.state),
        }


def _lines(gpu: SimulatedGpu) -> list[str]:
    single = ("name", "capability", "memory", "mig", "vbios", "gsp", "serial", "pci", "ecc",
              "ecc_errors", "nvlinks", "rows", "lost")  # fmt: skip
    values = {word: getattr(gpu, word) for word in single}
    return [
        f"gpu {gpu.uuid}",
        *(f"{word} {value}" for word, value in values.items() if value is not None),
        *(f"slice {uuid} {profile}" for uuid, profile in gpu.slices),
        *(f"process {' '.join(map(str, one))}" for one in gpu.processes),
        *(f"error {call} {code}" for call, code in gpu.errors.items()),
        *(f"xid {number}" for number in gpu.xids),
    ]


def compile_nvml(directory: Path) -> SimulatedNvml:
    """Compiles the library into a directory."""
    library = directory / "simulated-nvml"
    library.mkdir(parents=True)
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1",
               "-o", str(library / "libnvidia-ml.so.1"), str(_SOURCE)]  # fmt: skip
    subprocess.run(command, check=True)
    return SimulatedNvml(library, directory / "node.txt")
