"""A driver that changes at night under 8 of 20 nodes: seen, unqualified, planned, judged, safe.

SIMULATED: the GPUs, and what judges. Twenty agents, the service, the catalogue, `run-check` and
the processes that serve are real, on one machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from registry.types import Engine, Result
from registry.waves.types import Phase, Wave, WaveWork
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.waves import NEW, OLD, stages
from tests.fakes.servers import _free_ports
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

NODES, CHANGED, SERVING = 20, 8, 3
PERIOD = 5
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
    shutil.copy(site.bench.keys / TRUST_FILE, home / "keys")
    registry, settings = site.bench.registry, site.bench.settings
    write_directory(registry.store, evidence_of(registry, engine), home / "exported")
    record_placement(home, engine.digest, home / "exported" / "engine", key=engine.key.digest())
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
        "ENGINEKEEPER_CACHE": str(home / "cache"),
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


def waves(site: Site) -> list[Wave]:
    with site.bench.registry.catalogue.read() as view:
        return view.waves.open()


def waiting(site: Site) -> set[str]:
    """Returns the nodes in waves that the service recorded by itself."""
    return {node.name for one in waves(site) for node in one.nodes}


@pytest.mark.drill
def test_a_driver_that_changes_under_eight_of_twenty_nodes(
    library: SimulatedNvml, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    site = make_site(tmp_path, host=None)
    (variant,) = variants_of(tmp_path)
    engine = publish_for_gpu(site, variant, H100)
    registry = site.bench.registry
    nodes = [make_node(f"n-{at:02d}", library.library, site, engine) for at in range(NODES)]
    changed, spared = nodes[:CHANGED], nodes[-1]
    (port,) = _free_ports(1)
    base = {**os.environ, "ENGINEKEEPER_HOME": str(site.bench.settings.home),
            "ENGINEKEEPER_CACHE": str(site.bench.settings.cache)}  # fmt: skip
    with ExitStack() as running:
        served = process(base, tmp_path / "serve.log", "serve", "--port", port, "--period", PERIOD)
        running.enter_context(served)
        for node in nodes:
            command = (
                "agent", "run", "--node", node.name, "--server", f"http://127.0.0.1:{port}",
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

        for node in changed:
            node.driver(NEW, 13020)
        begun = datetime.now(UTC)
        seen = until(
            lambda: [drivers(site)[one.name] for one in changed] == [NEW] * CHANGED, 10 * PERIOD
        )

        until(lambda: waiting(site) == {one.name for one in changed}, 10 * PERIOD)
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
    record_property("seen_seconds", round(seen, 1))
    record_property("safe_seconds", round(safe, 1))
    assert seen <= 2 * PERIOD  # a period, and what 20 agents wait for each other on two cores
