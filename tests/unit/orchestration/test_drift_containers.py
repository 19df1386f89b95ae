"""Containers: what runs is held against what is named, and what nobody told is said to be so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from enginekeeper.fleet.images import ImageName
from enginekeeper.fleet.wire import DesiredEngine
from enginekeeper.orchestration.drift import DriftKind, KnownEngine, Severity
from enginekeeper.orchestration.drift_containers import container_findings
from enginekeeper.orchestration.waves import FleetEngine
from registry.keys import EngineKey

PROD = DesiredEngine("m", "prod", "new")
CANARY = DesiredEngine("m", "canary", "next")
NOTHING = DesiredEngine("m", "prod", None, "no engine for this hardware")


def known(name: str, model: str = "m") -> KnownEngine:
    key = EngineKey.of(builder="tensorrt_llm", weights=name)
    return KnownEngine(FleetEngine(name, key, "v", 1, ()), model, simulated=False)


ENGINES = {name: known(name) for name in ("new", "next", "old")} | {"other": known("other", "n")}


def found(
    running: Sequence[tuple[str, str | None]],
    named: Mapping[str, Sequence[str]],
    desired: Sequence[DesiredEngine] = (PROD,),
) -> list[tuple[str | None, str | None, str | None]]:
    images = {("m", on): [ImageName.parse(one) for one in texts] for on, texts in named.items()}
    findings = list(container_findings(running, desired, images, ENGINES))
    assert all(one.kind is DriftKind.CONTAINER for one in findings)
    return [(one.engine, one.fields[0].desired, one.fields[0].actual) for one in findings]


def test_what_runs_in_the_image_that_is_named_is_no_drift() -> None:
    assert found([("new", "x:1")], {"prod": ["x:1"]}) == []


def test_where_no_image_is_named_none_is_drift() -> None:
    assert found([("new", "x:1"), ("new", None)], {"prod": []}) == []
    assert found([("new", "x:1")], {}) == []


def test_every_process_of_the_engine_is_held() -> None:
    running = [("new", None), ("new", "x:1"), ("new", "x:2")]
    assert found(running, {"prod": ["x:1"]}) == [("new", "x:1", "unknown"), ("new", "x:1", "x:2")]


def test_what_runs_of_the_model_in_place_of_the_engine_is_held() -> None:
    running = [("old", "x:2"), ("other", "x:2"), ("nobody knows it", "x:2")]
    for desired in (PROD, NOTHING):
        assert found(running, {"prod": ["x:1"]}, [desired]) == [("old", "x:1", "x:2")]


def test_beside_the_engine_what_runs_of_the_model_is_not_asked() -> None:
    assert found([("new", "x:1"), ("old", "x:2")], {"prod": ["x:1"]}) == []


def test_the_engine_of_another_channel_is_held_against_its_own_image() -> None:
    running = [("new", "x:1"), ("next", "x:2")]
    named = {"prod": ["x:1"], "canary": ["x:2"]}
    assert found(running, named, [CANARY, PROD]) == []
    assert found(running[1:], named, [CANARY, PROD]) == []


def test_of_two_images_that_are_named_one_is_drift() -> None:
    assert found([("new", "x:1")], {"prod": ["x:1", "x:2"]}) == [("new", "x:2", "x:1")]


def test_where_nothing_of_the_model_runs_there_is_no_container() -> None:
    assert found([("other", "x:2")], {"prod": ["x:1"]}) == []


@pytest.mark.parametrize(
    ("actual", "severity", "said"),
    [("x:2", Severity.MEDIUM, "runs in x:2: by text"),
     (None, Severity.LOW, "runs in unknown: cannot be told: its start named no image")],
)  # fmt: skip
def test_another_image_weighs_more_than_one_that_nobody_told(
    actual: str | None, severity: Severity, said: str
) -> None:
    named = {("m", "prod"): [ImageName.parse("x:1")]}
    (finding,) = container_findings([("new", actual)], [PROD], named, ENGINES)
    assert (finding.severity, finding.reason) == (severity, said)
    assert (finding.wanted, finding.ignored) == (("m", "prod"), None)
