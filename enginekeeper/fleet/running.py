"""Which engines run: what run records declare, and what NVML confirms of it.

Rules:

- a record counts while the process it names lives: the same number, start time and boot;
- it is confirmed where NVML shows that process, or one that it started, computing on a GPU;
- a process that NVML shows and no record names runs nothing that is known here: no guess is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from enginekeeper.fleet.interface import Device
from enginekeeper.fleet.inventory import EndpointSays, Evidence, RunningEngine
from enginekeeper.fleet.processes import ProcessTable
from enginekeeper.fleet.runs import RunRecord, live_pid


def running_engines(
    records: Iterable[RunRecord], devices: Iterable[Device], table: ProcessTable,
    ask: Callable[[str, Path], EndpointSays] | None = None,
) -> tuple[RunningEngine, ...]:  # fmt: skip
    """Returns the engines whose processes live, in the records' order.

    `ask` asks the server of one that named an address what it serves.
    """
    living = {pid: one for one in records if (pid := live_pid(one, table)) is not None}
    seen = _where_seen(living, devices, table)
    return tuple(
        RunningEngine(
            engine=str(one.engine),
            path=str(one.path),
            pid=pid,
            started_at=one.started_at.isoformat(timespec="seconds"),
            evidence=Evidence.CONFIRMED if seen[pid] else Evidence.DECLARED,
            devices=tuple(sorted(seen[pid])),
            image=one.image,
            says=None if ask is None or one.endpoint is None else ask(one.endpoint, one.path),
        )
        for pid, one in living.items()
    )


def _where_seen(
    living: Mapping[int, object], devices: Iterable[Device], table: ProcessTable
) -> Mapping[int, set[str]]:
    """Returns the devices on which NVML shows each process, or one that it started."""
    seen: defaultdict[int, set[str]] = defaultdict(set)
    for device in devices:
        for process in device.processes:
            starter = next((one for one in table.lineage(process.pid) if one in living), None)
            if starter is not None:
                seen[starter].add(process.slice_uuid or device.uuid)
    return seen
