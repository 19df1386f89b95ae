"""What a wave needs to know of a node: a few words of its inventory.

Nodes of the same shape share one object, so that a fleet of a hundred thousand stays small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from enginekeeper.fleet.environments import GpuKind, kinds_of
from enginekeeper.fleet.interface import NOT_SUPPORTED, Device
from enginekeeper.fleet.inventory import FIRST_WITH_RUNS, Inventory
from enginekeeper.fleet.placements import INTACT
from registry.digests import Digest

_OF_APPLICATIONS = frozenset((13, 31, 43, 45, 68, 109))
"""Xids that an application causes: the GPU is well. As NVIDIA's device plugin for Kubernetes has it
(github.com/NVIDIA/k8s-device-plugin, internal/rm/health.go, after its list of Xid errors)."""


@dataclass(frozen=True)
class NodeShape:
    """What engines can meet on a node, besides its driver."""

    kinds: tuple[GpuKind, ...]
    os: str
    cpu_architecture: str
    complete: bool = True
    """Whether every GPU answered, and said whether it is split: only then is none missing here."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # kept: a fleet asks for it a hundred thousand times
        kept = (self.kinds, self.os, self.cpu_architecture, self.complete)
        object.__setattr__(self, "_hash", hash(kept))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node."""

    name: str
    driver: str | None
    """Version of its driver; None where there is none or it does not answer."""
    shape: NodeShape
    engines: tuple[str, ...]
    """Digests of the engines on it, each once, sorted; those that run and lie elsewhere, too."""
    problems: tuple[str, ...] = ()
    """Why nobody can tell what is on it, or what is on it is not what was put there."""
    simulated: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    running: tuple[str, ...] | None = None
    """What serves on it: digests of engines, and processes that NVML shows on its GPUs besides.

    None where its agent does not tell all of it.
    """
    cuda_driver: str | None = None
    """CUDA API that its driver offers, by its own word."""
    heard_at: datetime | None = None
    """When it spoke last; None: never."""

    def named(self, name: str, heard_at: datetime | None) -> NodeFacts:
        """Returns a node of another name, heard at another time, that shares everything else."""
        return NodeFacts(
            name, self.driver, self.shape, self.engines, self.problems, self.simulated, self.labels,
            self.running, self.cuda_driver, heard_at,
        )  # fmt: skip


def facts_of(inventory: Inventory) -> NodeFacts:
    """Returns what an inventory says to a wave."""
    host = inventory.host
    return NodeFacts(
        name=inventory.node,
        driver=None if inventory.driver is None else inventory.driver.version,
        shape=_shape(
            kinds_of(inventory.devices),
            host.os,
            host.cpu_architecture,
            complete=all_told(inventory),
        ),
        engines=tuple(
            sorted(
                {
                    *(one.engine for one in inventory.engines),
                    *(one.engine for one in inventory.running),
                }
            )
        ),
        problems=(*problems_of(inventory), *_changed(inventory)),
        simulated=inventory.simulated,
        labels=dict(inventory.labels),
        running=_running(inventory),
        cuda_driver=None if inventory.driver is None else inventory.driver.cuda,
        heard_at=datetime.fromisoformat(inventory.taken_at),
    )


@lru_cache(maxsize=4096)
def _shape(
    kinds: tuple[GpuKind, ...], os: str, cpu_architecture: str, *, complete: bool
) -> NodeShape:
    return NodeShape(kinds, os, cpu_architecture, complete)


def all_told(inventory: Inventory) -> bool:
    """Says whether every GPU of a node answered, and told how it is split."""
    return not inventory.lost and not any(map(split_unknown, inventory.devices))


def split_unknown(device: Device) -> str | None:
    """Says why nobody can tell how a GPU is split; None where it is known.

    That MIG is not supported is an answer.
    """
    if device.mig is None and device.unread.get("mig") != NOT_SUPPORTED:
        return f"MIG cannot be read: {device.unread.get('mig', 'no reason given')}"
    if "slices" in device.unread:
        return f"its MIG slices cannot be read: {device.unread['slices']}"
    return None


def runs_told(inventory: Inventory) -> bool:
    """Says whether the engines that run are all that serves on a node, and all of them are told."""
    return _all_runs_told(inventory) and not _other_processes(inventory)


def _running(inventory: Inventory) -> tuple[str, ...] | None:
    """Returns what serves on a node; None where the document does not tell all of it."""
    if not _all_runs_told(inventory):
        return None
    engines = sorted(one.engine for one in inventory.running)
    return tuple(dict.fromkeys([*engines, *_other_processes(inventory)]))


def _all_runs_told(inventory: Inventory) -> bool:
    unread = any("processes" in device.unread for device in inventory.devices)
    if inventory.schema < FIRST_WITH_RUNS or inventory.runs_problem or inventory.lost or unread:
        return False
    return inventory.gpu_source == "nvml" and inventory.problem is None


def _other_processes(inventory: Inventory) -> list[str]:
    known = {one.pid for one in inventory.running}
    return [
        f"process {process.pid} on GPU {device.index}"
        for device in inventory.devices
        for process in device.processes
        if process.pid not in known
    ]


def problems_of(inventory: Inventory) -> Iterator[str]:
    """Yields why nobody can tell what is on a node; what is wrong with engine bytes is apart."""
    if inventory.problem is not None:
        yield inventory.problem
    for lost in inventory.lost:
        yield f"GPU {lost.index}: {lost.reason}"
    for device in inventory.devices:
        if (said := split_unknown(device)) is not None:
            yield f"GPU {device.index}: {said}"
    if inventory.engines_problem is not None:
        yield inventory.engines_problem
    if inventory.runs_problem is not None:
        yield inventory.runs_problem


def faults_of(inventory: Inventory) -> Iterator[str]:
    """Yields what is wrong with GPUs that answer: reasons to look at a node, and to hold none."""
    for device in inventory.devices:
        if device.rows_failed:
            yield f"GPU {device.index}: a memory row could not be replaced"
        if device.xid is not None and device.xid not in _OF_APPLICATIONS:
            yield f"GPU {device.index}: Xid {device.xid}"


def _changed(inventory: Inventory) -> Iterator[str]:
    for one in inventory.engines:
        if one.bytes != INTACT:
            yield f"engine {Digest.parse(one.engine).short} at {one.path}: {one.bytes}"
