"""The flow scripts: short, loadable without a server, and shadowing nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.orchestration import pipeline
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.start import load_flow

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted((ROOT / "flows").glob("*.py"))
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}
LONGEST = 60

needs_prefect = pytest.mark.skipif(
    importlib.util.find_spec("prefect") is None, reason="the flows extra is not installed"
)


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
@needs_prefect
@pytest.mark.filterwarnings("default")  # Prefect's own imports warn
def test_a_flow_loads_without_a_server(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # nobody answers there
    flow = load_flow(script.stem)
    assert flow.name == f"enginekeeper-{script.stem}"
    assert flow.fn.__name__ == script.stem


@needs_prefect
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("known", "export_only", "steps"),
    [
        (None, False, ["checkpoint", "audit", "engine", "publish", "score", "judge"]),
        (None, True, ["checkpoint", "audit", "export"]),
        ("an engine", False, ["fetch", "audit", "score", "judge"]),
    ],
)
def test_a_known_engine_is_judged_and_not_made_again(
    monkeypatch: pytest.MonkeyPatch, known: object, *, export_only: bool, steps: list[str]
) -> None:
    flow, ran = load_flow("build").fn, list[str]()

    def step(name: str) -> Callable[..., Any]:
        def run(*_given: object) -> SimpleNamespace:
            ran.append(name)
            return SimpleNamespace(export_only=export_only)

        return run

    for name in ("fetch", "checkpoint", "audit", "export", "engine", "publish", "score", "judge"):
        monkeypatch.setitem(flow.__globals__, name, step(name))
    work = SimpleNamespace(
        todo=[SimpleNamespace(known=known)],
        catching=lambda _variant: nullcontext(),
        outcomes=lambda: ran,
    )
    monkeypatch.setitem(flow.__globals__, "reported", lambda run: run())
    monkeypatch.setattr(pipeline, "conclude", lambda _bench, work: work.outcomes())
    for name in ("source", "reference", "publish_reference"):
        monkeypatch.setitem(flow.__globals__, name, lambda *_given: work)
    monkeypatch.setattr(pipeline, "begin", lambda *_given: work)
    monkeypatch.setitem(flow.__globals__, "plan_order", lambda *_given: ())
    assert flow(BuildOrder("spec.yaml")) == steps


def test_a_flow_that_is_not_there_is_said_plainly() -> None:
    with pytest.raises(UnavailableError, match="the flow absent is not installed"):
        load_flow("absent")
