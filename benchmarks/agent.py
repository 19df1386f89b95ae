"""Measures what an agent that stays costs a node: memory and processor time over ten minutes.

`python benchmarks/agent.py [--seconds 600] [--period 60]`; eight simulated GPUs (the C stand-in
for NVML), three engines of 256 MiB on the disk, one of them "running". The agent is the installed
command as a process of its own; the server it speaks to is the tests' double in this process and
is not counted. Children of the agent, which ask NVML, are. No real GPU, and no real NVML: what
NVIDIA's own library costs is not in these figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from enginekeeper.fleet.placements import record_placement
from enginekeeper.fleet.runs import record_run
from registry.digests import Digest
from registry.manifests import Manifest
from tests.fakes.fleet_double import TOKEN, FleetDouble, served
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml, compile_nvml

ROOT = Path(__file__).parents[1]
RSS_MB, CPU_PERCENT = 40.0, 0.2
"""What was promised."""
ENGINE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """What a process and its children that ended have used."""

    seconds: float
    """Of a processor."""
    rss_mb: float
    peak_mb: float

    @classmethod
    def of(cls, pid: int) -> Cost:
        """Reads it from `/proc`."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = sum(int(one) for one in fields[11:15])  # utime, stime, and those of its children
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        rss, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return cls(ticks / os.sysconf("SC_CLK_TCK"), rss, peak)


def make_node(home: Path) -> None:
    """Puts three engines onto a node, and says that this process runs one."""
    for number in range(3):
        place, key = home / f"engine-{number}", Digest("ek-key-v2", f"{number}" * 64)
        place.mkdir(parents=True)
        with (place / "rank0.engine").open("wb") as out:
            for _ in range(ENGINE_BYTES // 2**20):
                out.write(bytes([number]) * 2**20)
        digest = Manifest.of_directory(place, "engine", key=key).digest
        record_placement(home, digest, place, key=key)
        if number == 0:
            record_run(home, digest, place)


@contextmanager
def running(place: Path, url: str, period: float) -> Iterator[int]:
    """Lets an agent run while a block does, and gives its pid."""
    environment = {
        **os.environ, **SimulatedNvml(place / "simulated-nvml", place / "node.txt").environment(),
        "PYTHONPATH": str(ROOT), "ENGINEKEEPER_HOME": str(place / "home"),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "enginekeeper", "agent", "run", "--server", url, "--node", "bench",
         "--token-file", str(place / "token"), "--period", str(period)], env=environment,
    ) as agent:  # fmt: skip
        yield agent.pid
        agent.terminate()


def measure(seconds: float, period: float) -> dict[str, float | int]:
    """Lets an agent run and returns what it cost after its first round.

    The engines are hashed before, by an agent that is ended; then each of them is made due to be
    read again, which it would be only after an hour.
    """
    with tempfile.TemporaryDirectory(prefix="ek-agent-") as name:
        place = Path(name)
        make_node(place / "home")
        (place / "token").touch(mode=0o600)
        (place / "token").write_text(TOKEN)
        process_of = ((os.getpid(), 40_000_000_000),)
        compile_nvml(place).set(
            *(SimulatedGpu(uuid=f"GPU-{n}", processes=process_of[n:]) for n in range(8))
        )
        double = FleetDouble("bench", next_seconds=round(period))
        time.sleep(3)  # so that files are no longer new to the agent
        with served(double):
            with running(place, double.url, period):
                _until_told(double)
            kept = place / "home" / "agent" / "hashes.json"
            document = json.loads(kept.read_text())
            for values in document["files"].values():
                values[-1] = 0.0
            kept.write_text(json.dumps(document))
            double.inventories.clear()
            with running(place, double.url, period) as pid:
                _until_told(double)
                start, began, rounds = Cost.of(pid), time.monotonic(), len(double.heartbeats)
                time.sleep(seconds)
                end, wall = Cost.of(pid), time.monotonic() - began
        evidence = [one["evidence"] for one in double.inventories[-1]["running"]]  # type: ignore[attr-defined]
        return {
            "rounds": len(double.heartbeats) - rounds,
            "inventories": len(double.inventories),
            "confirmed": evidence.count("confirmed"),
            "inventory_bytes": len(json.dumps(double.inventories[0])),
            "rss_mb": round(end.rss_mb, 1),
            "peak_mb": round(end.peak_mb, 1),
            "cpu_percent": round(100 * (end.seconds - start.seconds) / wall, 3),
            "start_cpu_seconds": start.seconds,
            "seconds": round(wall),
        }


def _until_told(double: FleetDouble) -> None:
    while not double.inventories:
        time.sleep(0.2)
    time.sleep(2)


def main() -> int:
    """Prints the figures; 1 where a promise is broken."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--seconds", type=float, default=600.0)
    asked.add_argument("--period", type=float, default=60.0)
    given = asked.parse_args()
    figures = measure(given.seconds, given.period)
    load = os.getloadavg()[0]
    print(json.dumps({**figures, "period": given.period, "load": round(load, 1)}, indent=2))
    kept = figures["peak_mb"] <= RSS_MB and figures["cpu_percent"] <= CPU_PERCENT
    print(f"promised: at most {RSS_MB} MB and {CPU_PERCENT} % of a core: "
          f"{'kept' if kept else 'BROKEN'}")  # fmt: skip
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
