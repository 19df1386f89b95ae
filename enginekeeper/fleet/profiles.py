"""What the catalogue keeps of an inventory: what nodes have in common, and what is of each.

A profile is what decides about engines on a node: its kinds of GPU, driver, platform, labels and
problems. Nodes that are alike share one, so that a fleet is decided about profile by profile.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import GpuKind, kinds_of, meant_for, runtime_of
from enginekeeper.fleet.interface import Device, DriverState
from enginekeeper.fleet.inventory import Evidence, Inventory
from enginekeeper.fleet.nodes import (
    NodeShape,
    all_told,
    faults_of,
    problems_of,
    runs_told,
    split_unknown,
)
from registry.environments import CpuEnvironment, Environment
from registry.fleet.types import Beat, NodeDevice, NodeReport, PlacedEngine
from registry.keys import EngineKey

_LONGEST = {"driver": 40, "product": 200, "uuid": 200, "compute capability": 20, "MIG profile": 200,
            "engine": 100, "label": 200, "path": 4096, "bytes": 1000, "image": 500}  # fmt: skip
"""Characters that the catalogue has room for."""
_MOST_LABELS, _MOST_DEVICES = 64, 1024


@dataclass(frozen=True)
class Profile:
    """What nodes that are alike have in common."""

    kinds: tuple[GpuKind, ...]
    driver: DriverState | None
    os: str
    cpu_architecture: str
    instruction_set: tuple[str, ...]
    gpus: int
    simulated: bool
    problems: tuple[str, ...] = ()
    """Why nobody can tell what is on such a node; without what is wrong with its engines."""
    labels: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    """Whether every GPU answered, and told how it is split."""
    faults: tuple[str, ...] = ()
    """What is wrong with GPUs that answer; holds no node."""
    runs_told: bool = False
    """Whether the engines that run are all that serves there, and all of them are told."""
    labels_given: tuple[str, ...] = ()
    """Names of the labels that an operator gave; the others are the nodes' own word."""
    untold: tuple[str, ...] = ()
    """Products of GPUs of which nobody can tell how they are split: engines meet none of these."""

    @property
    def by_operator(self) -> Profile:
        """The same with the labels of the operator alone: what excuses goes by no node's word."""
        given = {name: self.labels[name] for name in self.labels_given}
        return replace(self, labels=given)

    @cached_property
    def deciding(self) -> str:
        """What of it decides about engines, as text: nodes of the same decide alike."""
        driver = self.driver
        return json.dumps(
            [
                [(one.product, one.compute_capability, one.mig_profile) for one in self.kinds],
                None if driver is None else (driver.version, driver.cuda, driver.branch),
                self.os, self.cpu_architecture, self.instruction_set, self.simulated,
                *([self.untold] if self.untold else []),
            ]
        )  # fmt: skip

    @property
    def shape(self) -> NodeShape:
        """What engines can meet on such a node, besides its driver."""
        return NodeShape(self.kinds, self.os, self.cpu_architecture, self.complete)

    def as_document(self) -> dict[str, Any]:
        """Returns the profile as a JSON object."""
        driver = self.driver
        return {
            "kinds": [[one.product, one.compute_capability, one.mig_profile] for one in self.kinds],
            "driver": None if driver is None else [driver.version, driver.cuda, driver.branch],
            "os": self.os,
            "cpu_architecture": self.cpu_architecture,
            "instruction_set": list(self.instruction_set),
            "gpus": self.gpus,
            "simulated": self.simulated,
            "problems": list(self.problems),
            "labels": dict(self.labels),
            "complete": self.complete,
            "runs_told": self.runs_told,
            **({"faults": list(self.faults)} if self.faults else {}),
            **({"labels_given": list(self.labels_given)} if self.labels_given else {}),
            **({"untold": list(self.untold)} if self.untold else {}),
        }

    @property
    def ills(self) -> tuple[str, ...]:
        """Everything that is wrong with such a node: why it is not healthy."""
        return (*self.problems, *self.faults)

    @property
    def gpus_in_words(self) -> str:
        """As `8 x NVIDIA H100 80GB HBM3`."""
        names = ", ".join(dict.fromkeys(one.product for one in self.kinds))
        return f"{self.gpus} x {names}" if names else "none"

    def meets(self, key: EngineKey) -> tuple[Environment, ...]:
        """Returns the environments that an engine of a key would meet here; may be none.

        One for a GPU meets the kinds of GPU that it was built for; one for a CPU brings its torch.
        """
        if "instruction_set" in key.hard:
            return (CpuEnvironment(self.instruction_set, str(key.hard.get("torch"))),)
        if self.driver is None:
            return ()
        runtime = runtime_of(key, self.driver)
        return tuple(
            one.under(self.driver, runtime)
            for one in meant_for(key, self.kinds)
            if one.product not in self.untold
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Profile:
        """Reads what `as_document` gave."""
        driver = document["driver"]
        return cls(
            kinds=tuple(GpuKind(*one) for one in document["kinds"]),
            driver=None if driver is None else DriverState(*driver),
            os=document["os"],
            cpu_architecture=document["cpu_architecture"],
            instruction_set=tuple(document["instruction_set"]),
            gpus=document["gpus"],
            simulated=document["simulated"],
            problems=tuple(document["problems"]),
            labels=document["labels"],
            complete=document["complete"],
            runs_told=document["runs_told"],
            faults=tuple(document.get("faults", ())),  # absent where there is none
            labels_given=tuple(document.get("labels_given", ())),
            untold=tuple(document.get("untold", ())),
        )


def profile_of(inventory: Inventory) -> Profile:
    """Returns what a node has in common with others, by its own word."""
    host = inventory.host
    return Profile(
        kinds=tuple(sorted(kinds_of(inventory.devices), key=_by_name)),
        driver=inventory.driver,
        os=host.os,
        cpu_architecture=host.cpu_architecture,
        instruction_set=host.instruction_set,
        gpus=len(inventory.devices),
        simulated=inventory.simulated,
        problems=tuple(problems_of(inventory)),
        complete=all_told(inventory),
        runs_told=runs_told(inventory),
        faults=tuple(faults_of(inventory)),
        labels=dict(inventory.labels),
        untold=tuple(
            sorted({one.product for one in inventory.devices if split_unknown(one) is not None})
        ),
    )


def report_of(inventory: Inventory, document: bytes, state: str, beat: Beat) -> NodeReport:
    """Returns what the catalogue keeps of an inventory; raises InputError for what has no room."""
    driver = None if inventory.driver is None else inventory.driver.version
    _check("driver", driver)
    if len(inventory.labels) > _MOST_LABELS:
        raise InputError(
            "too many labels", where="labels", actual=len(inventory.labels), expected=_MOST_LABELS
        )
    for name, value in inventory.labels.items():
        _check("label", name)
        _check("label", value)
    return NodeReport(
        beat=beat,
        state=state,
        driver=driver,
        profile=profile_of(inventory).as_document(),
        engines=tuple(_engines(inventory)),
        devices=tuple(_devices(inventory)),
        document=zlib.compress(document, 1),
        engines_told=inventory.engines_problem is None and inventory.runs_problem is None,
    )


def _by_name(kind: GpuKind) -> tuple[str, str, str]:
    return kind.product, kind.compute_capability, kind.mig_profile or ""


def _engines(inventory: Inventory) -> Iterator[PlacedEngine]:
    """Yields each engine at each path once: on disk, running, or both."""
    running: dict[tuple[str, str], set[str]] = {}
    images: dict[tuple[str, str], set[str | None]] = {}
    confirmed: set[tuple[str, str]] = set()
    for one in inventory.running:  # several processes may run one engine
        running.setdefault((one.engine, one.path), set()).update(one.devices)
        _check("image", one.image)
        images.setdefault((one.engine, one.path), set()).add(one.image or None)
        if one.evidence is Evidence.CONFIRMED:
            confirmed.add((one.engine, one.path))
    on_disk = {(one.engine, one.path): one for one in inventory.engines}
    for key in {**on_disk, **running}:
        disk = on_disk.get(key)
        state = None if disk is None else disk.bytes
        for what, text in (("engine", key[0]), ("path", key[1]), ("bytes", state)):
            _check(what, text)
        evidence = Evidence.CONFIRMED if key in confirmed else Evidence.DECLARED
        yield PlacedEngine(
            *key, state,
            running=str(evidence) if key in running else None,
            devices=tuple(sorted(running.get(key, ()))),
            images=_told(images.get(key, set())),
            placed_at=None if disk is None else _moment(disk.placed_at),
        )  # fmt: skip


def _told(images: set[str | None]) -> tuple[str | None, ...]:
    """Returns the images that processes told, None among them for one that told none."""
    return tuple(sorted(images, key=lambda one: one or "")) if any(images) else ()


def _devices(inventory: Inventory) -> Iterator[NodeDevice]:
    seen: set[str] = set()
    for device in inventory.devices:
        if not 0 <= device.index < _MOST_DEVICES:
            raise InputError(
                "not the index of a GPU", where="devices",
                actual=device.index, expected=f"0 to {_MOST_DEVICES - 1}",
            )  # fmt: skip
        _check("product", device.product)
        _check("compute capability", device.compute_capability)
        for uuid, profile in _parts(device):
            _check("uuid", uuid)
            _check("MIG profile", profile)
            if uuid in seen:
                raise InputError("two devices have one UUID", where="devices", actual=uuid)
            seen.add(uuid)
            yield NodeDevice(uuid, device.index, device.product, device.compute_capability, profile)


def _parts(device: Device) -> Iterator[tuple[str, str | None]]:
    yield device.uuid, None
    for one in device.slices:
        yield one.uuid, one.profile


def _check(what: str, text: str | None) -> None:
    if text is not None and len(text) > _LONGEST[what]:
        raise InputError(
            f"the {what} is too long to be kept",
            actual=f"{len(text)} characters", expected=f"at most {_LONGEST[what]}",
        )  # fmt: skip


def _moment(text: str) -> datetime | None:
    """Returns a time that a node wrote, None where it has no zone, is none, or has no UTC."""
    try:
        found = datetime.fromisoformat(text)
        return None if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
