"""Takes the inventory of this node, by itself: no registry, no network, no other library.

Whatever does not answer is said in the document; only what nobody can use (a home that cannot be
read) is an error.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from enginekeeper import __version__
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.cpu import host, instruction_set
from enginekeeper.fleet.identity import node_name
from enginekeeper.fleet.interface import Device, DriverState, Nvml, Scan, XidEvent
from enginekeeper.fleet.inventory import (
    EndpointSays,
    EngineOnDisk,
    HostFacts,
    Inventory,
    RunningEngine,
)
from enginekeeper.fleet.placements import Hashed, Placement, bytes_now, placements
from enginekeeper.fleet.processes import ProcessTable
from enginekeeper.fleet.running import running_engines
from enginekeeper.fleet.runs import RunRecord, run_records
from enginekeeper.fleet.software import software
from registry.names import check_component

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Means:
    """What a survey looks with, where it is not the machine itself and hashing."""

    processes: ProcessTable = field(default_factory=ProcessTable)
    hashed: Hashed | None = None
    ask: Callable[[str, Path], EndpointSays] | None = None
    """Asks the server of an engine that runs, at the address that its start named."""
    root: Path = Path("/")
    """Where the node's file system is, to look for software."""
    gpu_source: str = "nvml"
    """Who is asked about GPUs."""
    xids: Callable[[str | None], Mapping[str, XidEvent]] | None = None
    """Returns the last error heard of each GPU, under a driver; None where nobody listens."""


def survey(
    home: Path,
    open_nvml: Callable[[], Nvml],
    *,
    node: str | None = None,
    labels: Mapping[str, str] | None = None,
    means: Means | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Inventory:
    """Returns the inventory of this node; hashes every engine that was put here, or has it hashed.

    Without a name the node goes by its host's. Raises InvalidRecordError for what is no name.
    """
    name = check_component(node or node_name(), where="node")
    driver, scan, simulated, problem = _gpus(open_nvml)
    by = means or Means()
    if by.xids is not None:
        heard = by.xids(None if driver is None else driver.version)
        scan = replace(scan, devices=tuple(_with_xid(one, heard) for one in scan.devices))
    engines, engines_problem = _engines(home, by.hashed)
    running, runs_problem = _running(home, scan.devices, by)
    return Inventory(
        node=name,
        boot_id=by.processes.boot_id(),
        taken_at=now().isoformat(timespec="seconds"),
        agent=__version__,
        simulated=simulated,
        host=host_facts(),
        driver=driver,
        devices=scan.devices,
        lost=scan.lost,
        problem=problem,
        engines=engines,
        engines_problem=engines_problem,
        running=running,
        runs_problem=runs_problem,
        software=software(by.root),
        gpu_source=by.gpu_source,
        labels=dict(labels or {}),
    )


def host_facts() -> HostFacts:
    """Returns what is known of this machine and its operating system."""
    system, architecture = host()
    return HostFacts(
        os=system,
        release=_release(),
        kernel=platform.release(),
        cpu_architecture=architecture,
        cpu_model=_cpu_model(),
        cpus=os.cpu_count() or 1,
        memory_bytes=_memory(),
        instruction_set=instruction_set(),
    )


def _gpus(
    open_nvml: Callable[[], Nvml],
) -> tuple[DriverState | None, Scan, bool, str | None]:
    driver, simulated = None, False
    try:
        nvml = open_nvml()
        simulated = nvml.simulated
        driver = nvml.driver()
        return driver, nvml.scan(), simulated, None
    except (UnavailableError, InputError) as error:  # the second of files that others wrote
        return driver, Scan(), simulated, error.what


def _with_xid(device: Device, heard: Mapping[str, XidEvent]) -> Device:
    """Returns a GPU with the last error that was heard of it, or with why none is told."""
    one = heard.get(device.uuid)
    if one is None:
        return device
    if one.xid is None:
        return replace(device, unread={**device.unread, "xid": one.why or "not told"})
    return replace(device, xid=one.xid, xid_at=one.at)


def _engines(home: Path, hashed: Hashed | None) -> tuple[tuple[EngineOnDisk, ...], str | None]:
    """Returns the engines up to the first record that cannot be read, and what is wrong with it."""
    found: list[EngineOnDisk] = []
    try:
        found.extend(_on_disk(placement, hashed) for placement in placements(home))
    except InputError as error:
        return tuple(found), f"{error.where}: {error.what}"
    return tuple(found), None


def _running(
    home: Path, devices: Sequence[Device], by: Means
) -> tuple[tuple[RunningEngine, ...], str | None]:
    """Returns what runs by the records up to the first that cannot be read, and what is wrong."""
    found: list[RunRecord] = []
    problem = None
    try:
        found.extend(run_records(home))
    except InputError as error:
        problem = f"{error.where}: {error.what}"
    return running_engines(found, devices, by.processes, by.ask), problem


def _on_disk(placement: Placement, hashed: Hashed | None) -> EngineOnDisk:
    return EngineOnDisk(
        engine=str(placement.engine),
        path=str(placement.path),
        placed_at=placement.placed_at.isoformat(timespec="seconds"),
        bytes=bytes_now(placement, key=placement.key, simulated=placement.simulated, hashed=hashed),
    )


def _release() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:  # not Linux, or an image without the file
        return None


def _cpu_model() -> str | None:
    if not _CPUINFO.is_file():
        return None
    for line in _CPUINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # a system that does not say
        return None
