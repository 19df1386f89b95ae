"""The flow scripts: short, loadable without a server, and shadowing nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.orchestration.start import load_flow

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted((ROOT / "flows").glob("*.py"))
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}
LONGEST = 60


def test_there_are_flows() -> None:
    assert ROOT / "flows" / "build.py" in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_flow_shadows_nothing(script: Path) -> None:
    # Prefect puts the script's folder onto sys.path: its name hides any module of that name.
    assert script.stem not in sys.stdlib_module_names
    assert script.stem not in PACKAGES | {"prefect", "tests", "migrations"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_flow_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.skipif(
    importlib.util.find_spec("prefect") is None, reason="the flows extra is not installed"
)
@pytest.mark.filterwarnings("default")  # Prefect's own imports warn
def test_a_flow_loads_without_a_server(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # nobody answers there
    flow = load_flow(script.stem)
    assert flow.name == f"enginekeeper-{script.stem}"
    assert flow.fn.__name__ == script.stem


def test_a_flow_that_is_not_there_is_said_plainly() -> None:
    with pytest.raises(UnavailableError, match="the flow absent is not installed"):
        load_flow("absent")
