"""A driver that changes at night under 8 of 20 nodes: seen, unqualified, planned, judged, safe.

SIMULATED: the GPUs, the engines, what judges, and so the nodes' enrolment and the keys that sign:
those of the trust root for simulated artifacts, and nodes trust no other. Twenty agents, the
service, the catalogue, `run-check` and the processes that serve are real, on one machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginekeeper.fleet.placements import record_placement
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.orchestration.fleet_reading import read_nodes
from enginekeeper.orchestration.rollout import service
from enginekeeper.orchestration.rollout.work import Dispatch
from registry.bundles import write_directory
from registry.exchange import evidence_of
from registry.signing import TRUST_FILE
from registry.trust import TrustRoot
from registry.types import Engine, Result
from registry.waves.types import Phase, Wave, WaveWork
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.waves import NEW, OLD, stages
from tests.fakes.servers import free_ports
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

NODES, CHANGED, SERVING = 20, 8, 3
PERIOD = 20
"""Seconds: a change is on record within one, on two cores that twenty agents share."""
ON_R595 = replace(H100, driver=NEW, cuda_driver="13.2")


@dataclass(frozen=True)
class Node:
    """A node: a home, a stand-in for NVML, an engine with its evidence."""

    name: str
    nvml: SimulatedNvml
    place: Path
    environ: dict[str, str]

    def driver(self, version: str, cuda: int) -> None:
        self.nvml.set(SimulatedGpu(uuid=f"GPU-{self.name}"), driver=version, cuda=cuda)


def make_node(name: str, library: Path, site: Site, engine: Engine) -> Node:
    """Enrols a node and puts the engine onto it."""
    home = site.directory / "nodes" / name
    (home / "keys").mkdir(parents=True)
    trust = json.loads((site.bench.keys / TRUST_FILE).read_text())
    trust["keys"] = [key for key in trust["keys"] if key["root"] == TrustRoot.SIMULATED]
    (home / "keys" / TRUST_FILE).write_text(json.dumps(trust))
    registry, settings = site.bench.registry, site.bench.settings
    write_directory(registry.store, evidence_of(registry, engine), home / "exported")
    record_placement(
        home, engine.digest, home / "exported" / "engine", key=engine.key.digest(), simulated=True
    )
    token = make_token(name)
    with registry.catalogue.edit(actor="anna") as draft:
        draft.fleet.enroll(
            name, token_digest(token), simulated=True, labels={}, at=datetime.now(UTC)
        )
    (home / "token").touch(mode=0o600)
    (home / "token").write_text(token)
    nvml = SimulatedNvml(library, home / "node.txt")
    environ = {
        **os.environ, **nvml.environment(), "ENGINEKEEPER_HOME": str(home),
        "ENGINEKEEPER_NODE": name, "ENGINEKEEPER_CACHE": str(home / "cache"),
        "ENGINEKEEPER_CATALOGUE": settings.catalogue_url,
        "ENGINEKEEPER_STORE": settings.store_url,
    }  # fmt: skip
    node = Node(name, nvml, home / "exported", environ)
    node.driver(OLD, 13000)
    return node


@contextmanager
def process(
    environ: dict[str, str], log: Path, *arguments: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command of ours until the block ends."""
    with log.open("ab") as output, subprocess.Popen(
        [sys.executable, "-m", "enginekeeper", *map(str, arguments)],
        env=environ, stdout=output, stderr=output,
    ) as found:  # fmt: skip
        try:
            yield found
        finally:
            found.terminate()
            found.wait(30)


def until(true: Callable[[], bool], seconds: float) -> float:
    """Waits until something is true, and returns how long that took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, "that did not come to pass"
        time.sleep(0.2)
    return time.monotonic() - begun


def drivers(site: Site) -> dict[str, str | None]:
    return {one.name: one.driver for one in read_nodes(site.bench.registry, ())}


def on_record(site: Site, name: str) -> datetime:
    """Returns when the server recorded the driver that a node has now."""
    with site.bench.registry.catalogue.read() as view:
        return view.fleet.history(view.fleet.node(name))[0].since


def waves(site: Site) -> list[Wave]:
    with site.bench.registry.catalogue.read() as view:
        return view.waves.open()


def waiting(site: Site) -> set[str]:
    """Returns the nodes in waves that the service recorded by itself."""
    return {node.name for one in waves(site) for node in one.nodes}


def change_drivers(site: Site, nodes: Sequence[Node]) -> list[float]:
    """Puts the new driver under nodes; returns after how many seconds each was on record."""
    at = {}
    for node in nodes:
        at[node.name] = datetime.now(UTC)
        node.driver(NEW, 13020)
    until(lambda: all(drivers(site)[name] == NEW for name in at), 3 * PERIOD)
    return sorted((on_record(site, name) - then).total_seconds() for name, then in at.items())


@pytest.mark.drill
def test_a_driver_that_changes_under_eight_of_twenty_nodes(
    library: SimulatedNvml, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    site = make_site(tmp_path, host=None)
    (variant,) = variants_of(tmp_path)
    engine = publish_for_gpu(site, variant, H100, simulated=True)
    registry = site.bench.registry
    assert engine.simulated
    nodes = [make_node(f"n-{at:02d}", library.library, site, engine) for at in range(NODES)]
    changed, spared = nodes[:CHANGED], nodes[-1]
    (port,) = free_ports(1)
    base = {**os.environ, "ENGINEKEEPER_HOME": str(site.bench.settings.home),
            "ENGINEKEEPER_CACHE": str(site.bench.settings.cache)}  # fmt: skip
    with ExitStack() as running:
        served = process(base, tmp_path / "serve.log", "serve", "--port", port, "--period", PERIOD)
        running.enter_context(served)
        for node in nodes:
            command = (
                "agent", "run", "--server", f"http://127.0.0.1:{port}",
                "--token-file", node.place.parent / "token", "--period", PERIOD,
            )  # fmt: skip
            running.enter_context(process(node.environ, tmp_path / "agents.log", *command))
        serving = [
            running.enter_context(
                process(node.environ, tmp_path / "serving.log", "run-check", node.place, "--",
                        "sleep", 600)
            )
            for node in changed[:SERVING]
        ]  # fmt: skip
        until(lambda: list(drivers(site).values()) == [OLD] * NODES, 240)
        assert waves(site) == []
        stranger = {**spared.environ, "ENGINEKEEPER_NODE": "not-enrolled"}
        code, said, _ = ek(stranger, "run-check", spared.place)
        assert (code, said["decision"]["rule"]) == (5, "simulated-on-real-node")

        begun = datetime.now(UTC)
        seen = change_drivers(site, changed)
        assert max(seen) <= PERIOD, seen

        until(lambda: waiting(site) == {one.name for one in changed}, 3 * PERIOD)
        (name,) = (one.name for one in waves(site))
        asked: list[WaveWork] = []

        def ask(work: WaveWork) -> str:
            asked.append(work)
            return f"run-{len(asked)}"

        step = service.go_on(
            registry, name, now=datetime.now(UTC),
            dispatch=Dispatch(ask),
        )  # fmt: skip
        assert stages(step.after) == {one.name: "upgraded" for one in changed}
        assert [(one.engine, one.action, one.state) for one in step.after.work] == [
            (str(engine.digest), "revalidate", "dispatched")
        ]
        assert len(asked) == 1
        for node in changed:
            assert ek(node.environ, "run-check", node.place)[0] == 5, node.name
        assert ek(spared.environ, "run-check", spared.place)[0] == 0
        assert [one.poll() for one in serving] == [None] * SERVING
        reasons = {one.name: one.reasons for one in step.after.nodes}
        assert all("not-judged-there" in reasons[one.name][0] for one in changed)

        site.judge(engine, variant, Result.PASS, ON_R595)  # as the run that was asked for does
        after = service.go_on(registry, name, now=datetime.now(UTC)).after
        assert (after.phase, after.work[0].state) == (Phase.DONE, "done")
        assert after.safe_at is not None
        safe = (after.safe_at - begun).total_seconds()
        assert ek(changed[0].environ, "run-check", changed[0].place)[0] == 0
        assert [one.poll() for one in serving] == [None] * SERVING
    record_property("seen_seconds", [round(one, 1) for one in seen])
    record_property("safe_seconds", round(safe, 1))
