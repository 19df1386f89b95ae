"""The inductor toolchain, and one folder of compiled graphs for the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of
from tests.factories.engine_bench import Bench


def _python(toolchain_name: str) -> Path:
    settings = Settings.from_environment()
    toolchain = find_toolchain(toolchain_name)
    installation = installation_of(toolchain, lock_of(toolchain, settings), settings)
    if not installation.ready:
        pytest.skip(f"not installed: enginekeeper toolchain sync {toolchain_name}")
    return installation.python


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def bench(graphs: Path, tmp_path: Path) -> Bench:
    return Bench(_python("inductor"), graphs, tmp_path)


@pytest.fixture(scope="session")
def modelopt() -> Path:
    return _python("modelopt")
