"""Measures the what-if of a driver wave for 1,000 to 100,000 nodes, and what reading them costs.

`python benchmarks/wave_plan.py`; the fleet is made up: eight GPUs a node, three engines on it out
of 1,200, five driver versions, a node in a hundred with something wrong. No GPU is asked and no
database: planning is from memory, reading from files of one document a line.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from enginekeeper.compatibility.decision import Judgement
from enginekeeper.fleet.interface import Device, DriverState
from enginekeeper.fleet.inventories import read_inventories
from enginekeeper.fleet.inventory import EngineOnDisk, HostFacts, Inventory
from enginekeeper.fleet.nodes import NodeFacts, facts_of
from enginekeeper.orchestration.waves import DriverChange, FleetEngine, plan_document, plan_wave
from registry.digests import digest_bytes
from registry.environments import GpuEnvironment
from registry.keys import EngineKey
from registry.types import Result

GPUS = (
    ("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA H200", "9.0"), ("NVIDIA A100-SXM4-80GB", "8.0"),
    ("NVIDIA L40S", "8.9"), ("NVIDIA L4", "8.9"), ("NVIDIA B200", "10.0"),
)  # fmt: skip
DRIVERS = (("580.65.06", "13.0"), ("580.95.05", "13.0"), ("590.48.01", "13.1"),
           ("570.124.06", "12.8"), ("595.71.05", "13.2"))  # fmt: skip
ENGINES, SEED, RUNS, TARGET_SECONDS = 1200, 6, 3, 2.0
HOST = HostFacts("linux", "Ubuntu 24.04", "6.8.0", "x86_64", "Xeon", 192, 2**41, ("avx2",))
READ = 10_000  # documents: reading is linear


def _chance(seed: int) -> random.Random:
    return random.Random(seed)


def engines() -> list[tuple[int, FleetEngine]]:
    """Makes engines, 200 for each GPU, each passed on three drivers."""
    made = []
    for number in range(ENGINES):
        at = number % len(GPUS)
        product, capability = GPUS[at]
        runtime = "12.8" if number % 4 == 0 else "13.0"
        key = EngineKey.of(
            builder="tensorrt_llm", weights=f"w{number // 12}", recipe=f"r{number % 12}",
            gpu_product=product, compute_capability=capability, cuda_runtime=runtime,
            os="linux", cpu_architecture="x86_64",
        )  # fmt: skip
        passed = tuple(
            Judgement(GpuEnvironment(product, capability, runtime, api, driver), Result.PASS)
            for driver, api in _chance(number).sample(DRIVERS, 3)
        )
        digest = str(digest_bytes(str(number).encode()))
        made.append((at, FleetEngine(digest, key, f"m{number}", 8 * 10**9, passed, 3600.0)))
    return made


def inventory(number: int, chance: random.Random, known: list[list[FleetEngine]]) -> Inventory:
    """Makes the document of one node."""
    at = number % len(GPUS)
    (product, capability), (driver, api) = GPUS[at], chance.choice(DRIVERS)
    devices = tuple(
        Device(
            index, f"GPU-{number:08x}-{index}", product, capability, 2**36, mig=False, vbios="96"
        )
        for index in range(8)
    )
    state = "CHANGED" if chance.random() < 0.01 else "verified"  # noqa: PLR2004 - one in a hundred
    on_disk = tuple(
        EngineOnDisk(one.digest, f"/engines/{one.variant}", "2026-11-26T00:00:00+00:00", state)
        for one in chance.sample(known[at], 3)
    )
    return Inventory(
        node=f"gpu-{number:06d}", boot_id="b", taken_at="2026-11-26T00:00:00+00:00", agent="0",
        simulated=False, host=HOST, driver=DriverState(driver, api), devices=devices, lost=(),
        problem=None, engines=on_disk, engines_problem=None, labels={"pool": f"p{at}"},
    )  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    """Returns the median of several runs, in seconds of processor time."""
    seconds = []
    for _ in range(RUNS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def main() -> int:
    """Prints a row for each size, and fails if the largest takes longer than promised."""
    made = engines()
    by_gpu = [[one for place, one in made if place == at] for at in range(len(GPUS))]
    known = {one.digest: one for _, one in made}
    change = DriverChange.to("595.71.05", on=date(2026, 11, 26))
    print("| nodes | plan s | as JSON values s | decisions | nodes held | peak MB |")
    print("|--:|--:|--:|--:|--:|--:|")
    seconds = 0.0
    for count in (1_000, 10_000, 100_000):
        chance = _chance(SEED)
        nodes: list[NodeFacts] = [
            facts_of(inventory(number, chance, by_gpu)) for number in range(count)
        ]
        plan = plan_wave(nodes, known, change)
        seconds = timed(lambda: plan_wave(nodes, known, change))  # noqa: B023 - called at once
        rendering = timed(lambda: plan_document(plan))  # noqa: B023 - called at once
        held = sum(len(one.nodes) for one in plan.held)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {count:,} | {seconds:.2f} | {rendering:.2f} | {len(plan.groups):,} | {held:,} "
              f"| {peak:.0f} |")  # fmt: skip
    chance = _chance(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch, "fleet.jsonl")
        with lines.open("w") as out:
            for number in range(READ):
                out.write(json.dumps(inventory(number, chance, by_gpu).as_dict()) + "\n")
        size = lines.stat().st_size / READ
        reading = timed(lambda: [facts_of(one) for one in read_inventories([lines])]) / READ
    print(f"reading: {reading * 1e6:.0f} us a document of {size / 1000:.1f} kB")
    return 0 if seconds < TARGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
