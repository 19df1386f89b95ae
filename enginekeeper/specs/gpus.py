"""The GPU products a spec can name, from a table of facts.

The table is `data/gpus.json`; its memory is what NVML reports, which is less than the number in
the product's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from enginekeeper.documents import read_json_object

MIB = 1 << 20
CPU = "cpu"
"""The name of the target that is no GPU: the processor this machine has."""

_TABLE = Path(__file__).with_name("data") / "gpus.json"


@dataclass(frozen=True, order=True)
class ComputeCapability:
    """A GPU architecture's version; compares number by number, never as text or as a float."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Reads `major.minor`."""
        major, _, minor = text.partition(".")
        return cls(int(major), int(minor))


@dataclass(frozen=True)
class GpuProduct:
    """One row of the table."""

    name: str
    """What a spec calls it, such as `h100-sxm`."""

    product: str
    """What NVML calls it, such as `NVIDIA H100 80GB HBM3`."""

    compute_capability: ComputeCapability
    memory: int
    """Device memory in bytes, as NVML reports it."""

    form: str
    """`sxm`, `pcie`, `superchip` (CPU and GPU in one module) or `unified` (shared memory)."""

    architecture: str
    note: str | None = None


@cache
def gpu_products() -> dict[str, GpuProduct]:
    """Returns the table by name, in its own order (by generation)."""
    rows = read_json_object(_TABLE)["gpus"]
    return {row["name"]: _product(row) for row in rows}


def _product(row: dict[str, str | int]) -> GpuProduct:
    note = row.get("note")
    return GpuProduct(
        name=str(row["name"]),
        product=str(row["product"]),
        compute_capability=ComputeCapability.parse(str(row["compute_capability"])),
        memory=int(row["memory_mib"]) * MIB,
        form=str(row["form"]),
        architecture=str(row["architecture"]),
        note=None if note is None else str(note),
    )


def target_names() -> tuple[str, ...]:
    """Returns every name a target may have: `cpu`, then the GPU products."""
    return (CPU, *gpu_products())
