"""The build flow without Prefect's engine: every task as the plain function that it wraps."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.orchestration import workshop
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Outcome
from enginekeeper.orchestration.start import load_flow
from tests.factories.benches import Site, make_site, variants_of
from tests.fakes.steps import FakeSteps

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("prefect") is None, reason="the flows extra is not installed"
    ),
    pytest.mark.filterwarnings("default"),  # Prefect's own imports warn
]
Build = Callable[[BuildOrder], list[Outcome]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture
def build(site: Site, monkeypatch: pytest.MonkeyPatch) -> Build:
    from prefect import Task  # noqa: PLC0415 - an extra

    flow = load_flow("build")
    names = flow.fn.__globals__
    tasks: dict[str, Callable[..., Any]]
    tasks = {name: one.fn for name, one in names.items() if isinstance(one, Task)}
    tasks |= {
        "open_bench": lambda: site.bench,
        "reported": lambda run: run(),
        "plan_order": lambda *_: site.plan(*variants_of(site.directory)),
        "source": lambda _, work: replace(work, source=site.source),
    }
    for name, plain in tasks.items():
        monkeypatch.setitem(names, name, plain)
    plain_flow: Build = flow.fn
    return plain_flow


def test_the_reference_is_in_the_registry_before_anything_is_built(
    site: Site, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = FakeSteps()
    monkeypatch.setattr(workshop, "run_step", steps)
    (outcome,) = build(BuildOrder("spec.yaml"))
    assert steps.started == ["tokenize_suite", "reference", "score_twin", "quantize"]
    assert outcome.summary == "no double of the step quantize"
    (reference,) = site.bench.registry.references()
    assert reference.model_name == "tiny"
