"""A real agent and the real service: a driver that changes is drift within a period.

SIMULATED: the GPUs; agent, service, catalogue and HTTP are real.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes import servers
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

Environ = dict[str, str]


@contextmanager
def agent(environment: Environ, port: int, token: Path, name: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-m", "enginekeeper", "agent", "run", "--node", name, "--server",
         f"http://127.0.0.1:{port}", "--token-file", str(token), "--period", "1"],
        env=environment,
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            process.terminate()


def until(ask: Callable[[], Any], seconds: float = 40.0) -> Any:  # noqa: ANN401 - what was asked
    end = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < end, "that did not come to pass"
        time.sleep(0.3)
    return found


def told(environment: Environ, *arguments: str) -> Any:  # noqa: ANN401 - any JSON value
    code, found, said = ek(environment, *arguments)
    assert code == 0, said
    return found


def test_a_driver_that_changes_under_an_agent_is_known_to_the_fleet(
    nvml: SimulatedNvml, environment: Environ, tmp_path: Path
) -> None:
    nvml.set(*(SimulatedGpu(uuid=f"GPU-{n}") for n in range(8)))
    made = told(environment, "node", "enroll", "gpu-1", "--simulated", "--label", "pool=a")
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(made["token"])

    def driver() -> str | None:
        (row,) = told(environment, "nodes")
        return row["driver"]  # type: ignore[no-any-return]

    with (
        servers.fleet_server(environment, options=("--period", "1")) as server,
        agent(environment, server.port, token, "gpu-1"),
    ):
        first = until(driver)
        nvml.set(SimulatedGpu(), driver="595.71.05")
        until(lambda: driver() == "595.71.05")
        shown = told(environment, "node", "show", "gpu-1")
        assert "refused" not in server.said()
    assert [one["driver"] for one in shown["history"]] == ["595.71.05", first]
    assert (shown["simulated"], shown["health"], len(shown["devices"])) == (True, "healthy", 1)
    assert shown["profile"]["labels"] == {"pool": "a"}
