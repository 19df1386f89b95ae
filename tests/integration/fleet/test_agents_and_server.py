"""Agents as processes against the real `ek serve`: what a driver does at night, from end to end.

SIMULATED: the GPUs, by the C stand-in; nodes are enrolled as simulated. Agents, server, catalogue,
HTTP, run records and the serving process are real.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.agent.client import FleetClient, RefusedError
from enginekeeper.fleet.wire import Heartbeat, state_of
from registry.signing import TRUST_FILE
from registry.types import Engine
from tests.factories.benches import make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.fakes.servers import FleetServer, fleet_server
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

NODES = ("gpu-1", "gpu-2", "gpu-3")
PERIOD = 1
R595: dict[str, Any] = {"driver": "595.71.05", "cuda": 13020}


@dataclass
class FleetNode:
    """A machine of its own: home, token, GPU; the same catalogue and store."""

    name: str
    environment: dict[str, str]
    nvml: SimulatedNvml
    token: Path
    url: str

    def agent(self) -> subprocess.Popen[bytes]:
        """Starts its agent."""
        return subprocess.Popen(
            [sys.executable, "-m", "enginekeeper", "agent", "run", "--node", self.name,
             "--server", self.url, "--token-file", str(self.token), "--period", str(PERIOD)],
            env=self.environment,
        )  # fmt: skip


@dataclass
class Fleet:
    """The whole of it."""

    operator: dict[str, str]
    engine: Engine
    nodes: dict[str, FleetNode]
    server: FleetServer

    def drivers(self) -> dict[str, str | None]:
        """Returns the driver of each node that was heard, as the fleet has it."""
        return {row["node"]: row["driver"] for row in ek(self.operator, "nodes")[1]}


@pytest.fixture
def fleet(library: SimulatedNvml, environment: dict[str, str], tmp_path: Path) -> Iterator[Fleet]:
    site = make_site(tmp_path, host=None)
    engine = publish_for_gpu(site, variants_of(tmp_path)[0], H100)
    site.bench.registry.set_channel("prod", engine.digest, H100, actor="anna")
    operator = {
        **environment, "ENGINEKEEPER_CATALOGUE": site.bench.settings.catalogue_url,
        "ENGINEKEEPER_STORE": site.bench.settings.store_url,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(fleet_server(operator, options=("--period", str(PERIOD))))
        nodes = {}
        for name in NODES:
            home = tmp_path / name
            (home / "keys").mkdir(parents=True)
            shutil.copy(site.bench.keys / TRUST_FILE, home / "keys")
            nvml = SimulatedNvml(library.library, tmp_path / f"{name}.txt")
            nvml.set(SimulatedGpu(uuid=f"GPU-{name}"))
            code, enrolled, _ = ek(operator, "node", "enroll", name, "--simulated")
            assert code == 0
            token = tmp_path / f"{name}.token"
            token.touch(mode=0o600)
            token.write_text(enrolled["token"])
            own = {**operator, **nvml.environment(), "ENGINEKEEPER_HOME": str(home)}
            url = f"http://127.0.0.1:{server.port}"
            nodes[name] = FleetNode(name, own, nvml, token, url)
        yield Fleet(operator, engine, nodes, server)


@contextlib.contextmanager
def agents_of(fleet: Fleet) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    started = {name: node.agent() for name, node in fleet.nodes.items()}
    try:
        yield started
    finally:
        for process in started.values():
            process.terminate()
        assert [process.wait(30) for process in started.values()] == [0] * len(started)


def until(true: Callable[[], object], seconds: float = 30.0) -> float:
    """Waits until something is true, and returns how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "that did not come to pass"
        time.sleep(0.1)
    return time.monotonic() - began


@contextlib.contextmanager
def serving(node: FleetNode, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Pulls what the channel means and starts a process on it, through run-check."""
    code, pulled, said = ek(node.environment, "pull", "tiny", "--channel", "prod", "--into", place)
    assert (code, pulled["offline"]["outcome"]) == (0, "open"), said
    with subprocess.Popen(
        [sys.executable, "-m", "enginekeeper", "run-check", "--model", "tiny", "--channel", "prod",
         "--", sys.executable, "-c", "import time; time.sleep(600)"],
        env=node.environment,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_a_driver_at_night_is_seen_and_stops_nothing_that_serves(
    fleet: Fleet, tmp_path: Path
) -> None:
    first = fleet.nodes["gpu-1"]
    with serving(first, tmp_path / "m") as server, agents_of(fleet):
        until(lambda: set(fleet.drivers().values()) == {"580.95.05"})
        assert set(fleet.drivers()) == set(NODES)
        busy = SimulatedGpu(uuid="GPU-gpu-1", processes=((server.pid, 1000),))
        first.nvml.set(busy)

        def running() -> list[str]:
            rows = ek(fleet.operator, "where", "--engine", fleet.engine.digest.short)[1]
            return [row["evidence"] for row in rows if row["node"] == "gpu-1"]

        until(lambda: "confirmed" in running())

        first.nvml.set(busy, **R595)
        fleet.nodes["gpu-2"].nvml.set(SimulatedGpu(uuid="GPU-gpu-2"), **R595)
        expected = {"gpu-1": "595.71.05", "gpu-2": "595.71.05", "gpu-3": "580.95.05"}
        took = until(lambda: fleet.drivers() == expected)
        assert took < 10 * PERIOD  # a period, and what a busy machine takes to ask

        again = ek(first.environment, "run-check", "--model", "tiny", "--channel", "prod")
        assert (again[0], again[1]["decision"]["rule"]) == (5, "not-qualified-here")
        assert server.poll() is None
        assert "confirmed" in running()


def test_a_server_that_is_started_again_hears_everybody(fleet: Fleet) -> None:
    with agents_of(fleet) as agents:
        until(lambda: len(fleet.drivers()) == len(NODES))
        fleet.server.process.send_signal(signal.SIGTERM)
        fleet.server.process.wait(30)
        gone = fleet.nodes["gpu-1"].environment
        until(lambda: ek(gone, "agent", "status")[0] == 10)
        assert all(process.poll() is None for process in agents.values())
        fleet.nodes["gpu-1"].nvml.set(SimulatedGpu(uuid="GPU-gpu-1"), **R595)
        with fleet_server(fleet.operator, port=fleet.server.port, options=("--period", "1")):
            until(lambda: fleet.drivers()["gpu-1"] == "595.71.05", seconds=60)
            until(lambda: ek(gone, "agent", "status")[0] == 0)


def test_forged_names_and_replays_are_refused_and_said(fleet: Fleet) -> None:
    node = fleet.nodes["gpu-1"]
    client = FleetClient(node.url, node.token)
    beat = Heartbeat("gpu-1", "boot", 10, datetime.now(UTC), state_of({}))
    assert client.heartbeat(beat).inventory == "wanted"
    for message, status in (
        (replace(beat, node="gpu-2", sequence=11), 403),
        (beat, 409),
        (replace(beat, sequence=9), 409),
    ):
        with pytest.raises(RefusedError) as caught:
            client.heartbeat(message)
        assert caught.value.status == status
    node.token.write_text("another-token")
    with pytest.raises(RefusedError) as caught:
        client.heartbeat(replace(beat, sequence=12))
    assert (caught.value.status, os.access(node.token, os.R_OK)) == (401, True)
    assert "another-token" not in fleet.server.said()


def test_a_node_that_was_not_enrolled_as_simulated_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    code, enrolled, _ = ek(fleet.operator, "node", "enroll", "gpu-9")
    assert code == 0
    node = fleet.nodes["gpu-1"]
    other = replace(
        node, name="gpu-9", token=tmp_path / "real.token",
        environment={**node.environment, "ENGINEKEEPER_HOME": str(tmp_path / "gpu-9")},
    )  # fmt: skip
    other.token.touch(mode=0o600)
    other.token.write_text(enrolled["token"])
    with other.agent() as process:
        until(
            lambda: "422" in str((ek(other.environment, "agent", "status")[1] or {}).get("problem"))
        )
        process.terminate()
    assert fleet.drivers().get("gpu-9") is None
