"""The caches of a pulled bundle on this node: restored where their key is this node's, or refused.

    INTO/engines/ID/engine/caches    what is signed
    INTO/caches/ID/PID-START-…       copies, one for each start: a process writes into its own

Rules:

- they are code. They are copied from files that were verified, by whoever verified them, and a copy
  that a process wrote into is never given to another one; it stays while its process is there;
- what they are bound to is compared with this node's GPU and driver and with the packages of the
  toolchain that serves. Where that toolchain is not installed here, nobody can tell, and they are
  not loaded: a bundle starts without them, and takes longer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from enginekeeper.building.bundle import is_bundle
from enginekeeper.building.runtime_caches import CacheKey, restore_caches
from enginekeeper.errors import EngineKeeperError
from enginekeeper.fleet.processes import ProcessTable
from enginekeeper.orchestration.asking import backend_of
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.simulation import SIMULATED_STEP
from enginekeeper.specs.profiles import SIMULATED
from enginekeeper.toolchains.catalogue import find_toolchain
from enginekeeper.toolchains.installation import State, state_of
from registry.disks import full_disk_said
from registry.keys import SIMULATED_BUILDERS, EngineKey

_FOLDER = "caches"
_STEP = "describe_runtime"
_USABLE = (State.READY, State.CONTAINED)


@dataclass(frozen=True)
class WarmCaches:
    """What became of a bundle's caches on this node."""

    refused: str | None
    """Why they are not loaded; None where they were restored."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables that lead a server to its copy; empty where there is none."""

    def as_dict(self) -> dict[str, Any]:
        """Returns it as a JSON object."""
        return {"refused": self.refused, "environment": dict(self.environment)}


def caches_place(place: Path) -> Path:
    """Returns where the copies are of an engine that was pulled to a place."""
    return place.parent.parent / _FOLDER / place.name


def warm_caches(
    bench: Bench, key: EngineKey, place: Path, files: Path, *, kept: Collection[Path] = ()
) -> WarmCaches | None:
    """Restores the caches of a bundle whose files were verified; None for what is no bundle.

    Copies of earlier starts are removed, but those that are kept.
    """
    if backend_of(key) != "pytorch" or not is_bundle(files):
        return None
    copies, table = caches_place(place), ProcessTable()
    remove_ended(copies, kept, table)
    mine = f"{os.getpid()}-{table.start_time(os.getpid())}-{token_hex(8)}"
    try:
        here = _bound_here(bench, key)
        if isinstance(here, str):
            return WarmCaches(here)
        with full_disk_said(copies):
            copies.mkdir(parents=True, exist_ok=True)
            return WarmCaches(None, restore_caches(files, here, copies / mine))
    except EngineKeeperError as error:
        return WarmCaches(str(error))
    except OSError as error:  # a start waits for no caches
        return WarmCaches(f"they cannot be copied to {copies / mine}: {error}")


def remove_ended(copies: Path, kept: Collection[Path], table: ProcessTable) -> None:
    """Removes the copies of processes that ended, half-made ones too, but those that are kept."""
    for copy in copies.glob("*") if copies.is_dir() else ():
        if copy not in kept and not _is_in_use(copy, table):
            shutil.rmtree(copy, ignore_errors=True)


def _is_in_use(copy: Path, table: ProcessTable) -> bool:
    """Says whether the process that made a copy, or what took its place, is still there."""
    pid, _, rest = copy.name.lstrip(".").partition("-")
    start = rest.partition("-")[0]
    if not (pid.isdecimal() and start.isdecimal()):
        return False
    return table.start_time(int(pid)) == int(start)


def _bound_here(bench: Bench, key: EngineKey) -> CacheKey | str:
    """Returns what caches are bound to on this node, or why that cannot be said."""
    hard = key.hard
    release = f"tensorrt-llm-{hard['tensorrt_llm']}"
    simulated = hard["builder"] in SIMULATED_BUILDERS
    name = f"{SIMULATED}{release}" if simulated else release
    state = state_of(find_toolchain(name), bench.settings)
    if state not in _USABLE:
        return (
            f"nobody can tell whether they are of this node's packages: the toolchain {name} is "
            f"{state.value} here"
        )
    job: dict[str, Any] = {
        "gpu": {
            "product": str(hard["gpu_product"]),
            "compute_capability": str(hard["compute_capability"]),
        },
        "ranks": int(hard["tensor_parallel"]) * int(hard["pipeline_parallel"]),
    }
    step = _STEP
    if simulated:
        told = {
            "version": str(hard["tensorrt_llm"]),
            "models": {},
            "programs": str(bench.shop.python_of(name).parent),
        }
        job = {"step": _STEP, "job": job, "double": told}
        name, step = "inductor", SIMULATED_STEP
    outcome = bench.shop.run(name, step, job, name="caches", minutes=5)
    return CacheKey.from_dict(outcome.outputs["key"], _STEP)
