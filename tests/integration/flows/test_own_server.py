"""A build without a Prefect server to tell it to: one of its own, which it never leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.worlds import World, eventually, wait_for
from tests.integration.flows.conftest import MakeWorld

QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


@pytest.fixture
def server() -> subprocess.Popen[bytes]:
    """The process of such a server, at its very start."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return subprocess.Popen(
            [sys.executable, "-m", "enginekeeper.orchestration.prefect_api",
             str(listening.fileno())],
            stdin=subprocess.PIPE, pass_fds=[listening.fileno()], start_new_session=True,
        )  # fmt: skip


def test_a_server_ends_when_who_started_it_is_gone(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None

    server.stdin.close()

    assert server.wait(60) == -signal.SIGTERM


def servers_of(world: World) -> list[int]:
    """Returns the processes that were started with this world's home: its Prefect servers."""
    mark = f"ENGINEKEEPER_HOME={world.root / 'home'}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "group", "status"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, True, 143),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, True, 129),
        (signal.SIGKILL, False, -9),
    ],
)
def test_an_interrupted_build_leaves_no_server(
    make_world: MakeWorld, number: signal.Signals, *, group: bool, status: int
) -> None:
    world = make_world("world")
    environment = {**QUIET, "PREFECT_HOME": str(world.root / "prefect")}
    with world.held(), world.start(**environment) as build:
        wait_for(build, "source: tiny ...")
        # the build and its server; a step that is being started looks like one for a moment
        assert eventually(lambda: len(servers_of(world)) == 2)

        (os.killpg if group else os.kill)(build.pid, number)

        said = build.communicate(timeout=60)[1]
        assert build.returncode == status
        assert "Traceback" not in said
        world.check()
    assert eventually(lambda: servers_of(world) == [])
