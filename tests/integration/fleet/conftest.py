from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.simulated_nvml import SimulatedNvml, compile_nvml


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimulatedNvml:
    """Compiles the stand-in once."""
    return compile_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library: SimulatedNvml, tmp_path: Path) -> SimulatedNvml:
    """The stand-in, with a state of this test's own: a node without GPUs."""
    own = SimulatedNvml(library.library, tmp_path / "node.txt")
    own.set()
    return own


@pytest.fixture
def environment(nvml: SimulatedNvml, tmp_path: Path) -> dict[str, str]:
    """What a process needs to see the stand-in and a home of this test's own."""
    return {
        **os.environ,
        **nvml.environment(),
        "ENGINEKEEPER_HOME": str(tmp_path / "home"),
        "ENGINEKEEPER_CACHE": str(tmp_path / "cache"),
    }
