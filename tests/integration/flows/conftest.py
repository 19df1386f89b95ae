"""Whole builds in worlds of their own, by fake toolchains; one zygote of each kind per session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes import servers
from tests.fakes.worlds import World, Zygote, zygote

MakeWorld = Callable[[str], World]


@pytest.fixture(scope="session")
def plain_zygote() -> Iterator[Zygote]:
    with zygote(plain=True) as found:
        yield found


@pytest.fixture
def make_world(plain_zygote: Zygote, tmp_path: Path) -> MakeWorld:
    """Makes a world whose builds run without Prefect."""
    return lambda name: World(tmp_path / name, plain_zygote)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[servers.PrefectServer]:
    with servers.prefect() as server:
        yield server


@pytest.fixture(scope="session")
def prefect_zygote(prefect_server: servers.PrefectServer) -> Iterator[Zygote]:
    with zygote(plain=False, environment=prefect_server.environment) as found:
        yield found


@pytest.fixture
def server_world(
    prefect_zygote: Zygote, prefect_server: servers.PrefectServer, tmp_path: Path
) -> World:
    """A world whose builds are told to the Prefect server."""
    return World(tmp_path / "world", prefect_zygote, environment=prefect_server.environment)


@pytest.fixture
def worker(prefect_server: servers.PrefectServer, server_world: World) -> Iterator[Path]:
    """The deployments of `prefect.yaml`, and the log of a worker in the test's world."""
    prefect_server.command(
        "work-pool", "create", "enginekeeper", "--type", "process", "--overwrite"
    )
    prefect_server.command("--no-prompt", "deploy", "--all")
    with prefect_server.worker("enginekeeper", server_world.environ) as log:
        yield log
