"""`agent run` as a process on a node with the C stand-in, against a server of the same wire.

SIMULATED: the GPUs; process, disk, signals and HTTP are real.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.fleet.wire import Desired, DesiredEngine
from tests.fakes.fleet_double import TOKEN, FleetDouble, served
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

Environ = dict[str, str]


@pytest.fixture
def double() -> Iterator[FleetDouble]:
    with served(FleetDouble("gpu-1", next_seconds=1)) as server:
        yield server


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(TOKEN)
    return file


@contextmanager
def running(
    environment: Environ, double: FleetDouble, token: Path, *options: str
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "enginekeeper", "agent", "run", "--node", "gpu-1", "--server",
         double.url, "--token-file", str(token), "--period", "1",
         *options],
        env=environment, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "that did not come to pass"
        time.sleep(0.05)


def test_a_driver_that_changes_is_told_within_a_period_and_sigterm_ends_well(
    nvml: SimulatedNvml, environment: Environ, double: FleetDouble, token: Path
) -> None:
    nvml.set(*(SimulatedGpu(uuid=f"GPU-{n}") for n in range(8)))
    double.desired = Desired("gpu-1", (DesiredEngine("tiny", "prod", None, "never judged"),))
    with running(environment, double, token) as process:
        until(lambda: double.inventories)
        assert len(double.inventories[0]["devices"]) == 8  # type: ignore[arg-type]
        until(lambda: len(double.heartbeats) >= 3)
        assert len(double.inventories) == 1

        nvml.set(SimulatedGpu(uuid="GPU-0"), SimulatedGpu(uuid="GPU-1", lost=79),
                 driver="595.71.05", cuda=13020)  # fmt: skip
        until(lambda: len(double.inventories) == 2)
        newest = double.inventories[-1]
        assert newest["driver"] == {"version": "595.71.05", "cuda": "13.2", "branch": "r580_00"}
        assert newest["lost"] == [{"index": 1, "reason": "GPU is lost"}]

        code, status, _ = ek(environment, "agent", "status")
        assert (code, status["fresh"], status["pid"]) == (0, True, process.pid)
        assert status["desired"][0]["reason"] == "never judged"

        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in said, TOKEN in said) == (0, False, False)


def test_an_error_of_a_gpu_is_told_within_a_period_where_somebody_listens(
    nvml: SimulatedNvml, environment: Environ, double: FleetDouble, token: Path
) -> None:
    gpus = [SimulatedGpu(), SimulatedGpu(uuid="GPU-1", errors={"nvmlDeviceRegisterEvents": 3})]
    nvml.set(*gpus)

    def first() -> dict[str, object]:
        return double.inventories[-1]["devices"][0]  # type: ignore[index, no-any-return]

    with running(environment, double, token, "--xids") as process:
        until(lambda: double.inventories)
        assert (first()["xid"], first()["xid_at"]) == (None, None)
        until(lambda: "xid" in double.inventories[-1]["devices"][1]["unread"])  # type: ignore[index]
        nvml.set(replace(gpus[0], xids=(48,)), gpus[1])
        until(lambda: first()["xid"] == 48)
        assert first()["xid_at"]
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)  # ends when nobody has its stderr: no child stays
    assert (process.returncode, "Traceback" in said) == (0, False)


def test_a_server_that_goes_and_comes_back_loses_nothing(
    nvml: SimulatedNvml, environment: Environ, token: Path
) -> None:
    nvml.set(SimulatedGpu())
    double = FleetDouble("gpu-1")
    with served(double):
        pass  # it had this port, and is gone
    with running(environment, double, token) as process:
        until(lambda: ek(environment, "agent", "status")[0] == 10)
        with served(double):
            until(lambda: double.inventories, seconds=40)
            assert ek(environment, "agent", "status")[0] == 0
        before = list(double.sequences)
        process.kill()
    with served(double), running(environment, double, token):
        until(lambda: len(double.sequences) > len(before))
    assert double.sequences == sorted(set(double.sequences))


def test_a_token_that_others_may_read_ends_it_at_once(
    environment: Environ, double: FleetDouble, token: Path
) -> None:
    token.chmod(0o644)
    with running(environment, double, token) as process:
        _, said = process.communicate(timeout=20)
    assert (process.returncode, "others" in said) == (3, True)
    assert ek(environment, "agent", "status")[0] == 4


def test_the_agent_that_stays_imports_no_registry_and_nothing_heavy(
    nvml: SimulatedNvml, environment: Environ, double: FleetDouble, token: Path
) -> None:
    nvml.set(SimulatedGpu())
    program = (
        "import json, sys\n"
        "from enginekeeper.cli.main import cli\n"
        "from enginekeeper.fleet.agent.loop import Agent\n"
        "Agent.run = lambda agent: (agent.round(), None)[1]\n"
        f"cli.main({['agent', 'run', '--node', 'gpu-1', '--server', double.url, '--token-file', str(token)]!r}, "  # noqa: E501
        "standalone_mode=False)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert len(double.inventories) == 1
    heavy = {
        "sqlalchemy", "alembic", "pydantic", "numpy", "boto3", "botocore", "prefect",
        "securesystemslib", "cryptography", "rich", "registry.service", "registry.catalogue",
        "registry.models", "registry.queries", "multiprocessing", "asyncio",
    }  # fmt: skip
    assert sorted(heavy & loaded) == []
    ours = {name.partition(".")[0] for name in loaded} - {*sys.stdlib_module_names, "__main__"}
    installed = {name for name in ours if importlib.util.find_spec(name) is not None}
    # what deploy/agent/Containerfile installs, and ourselves
    assert {one for one in installed if not one.startswith("_")} <= {
        "click", "urllib3", "pynvml", "enginekeeper", "registry",
    }  # fmt: skip
    assert {name for name in loaded if name.startswith("registry.")} <= {
        "registry.digests", "registry.disks", "registry.documents", "registry.environments",
        "registry.errors", "registry.files", "registry.keys", "registry.manifests",
        "registry.names",
    }  # fmt: skip
