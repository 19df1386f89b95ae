"""Makes inventories of nodes that are not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enginekeeper.fleet.interface import Device, DriverState
from enginekeeper.fleet.inventory import EngineOnDisk, HostFacts, Inventory

HOST = HostFacts(
    "linux", "Debian GNU/Linux 12", "6.1.0", "x86_64", "Xeon", 96, 2**40, ("avx2", "avx512f")
)
TAKEN_AT = datetime.now(UTC).isoformat(timespec="seconds")
"""Now: an inventory of yesterday holds its node."""
R580 = DriverState("580.95.05", "13.0", "r580_00")


def device(index: int = 0, product: str = "NVIDIA H100 80GB HBM3", **fields: Any) -> Device:  # noqa: ANN401 - its fields
    """Returns one GPU of a node."""
    base = {
        "uuid": f"GPU-{index:08d}", "compute_capability": "9.0", "memory_bytes": 85_520_809_984,
        "mig": False, "vbios": "96.00.74.00.01",
    }  # fmt: skip
    return Device(index=index, product=product, **{**base, **fields})


def on_disk(engine: object, state: str = "verified") -> EngineOnDisk:
    """Returns an engine that was put onto a node."""
    return EngineOnDisk(str(engine), "/engines/m", "2026-11-24T12:00:00+00:00", state)


def inventory(
    node: str = "gpu-0001", engines: Sequence[EngineOnDisk] = (), **fields: Any  # noqa: ANN401 - its fields
) -> Inventory:  # fmt: skip
    """Returns the inventory of a node with eight H100 under R580."""
    base: dict[str, Any] = {
        "boot_id": "b", "taken_at": TAKEN_AT, "agent": "0.1.0",
        "simulated": False, "host": HOST, "driver": R580,
        "devices": tuple(device(index) for index in range(8)), "lost": (), "problem": None,
        "engines_problem": None,
    }  # fmt: skip
    return Inventory(node=node, engines=tuple(engines), **{**base, **fields})


def write_inventory(directory: Path, found: Inventory) -> Path:
    """Writes a document as an agent does."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{found.node}.json"
    file.write_text(json.dumps(found.as_dict()))
    return file
