"""In which image an assignment wants an engine: told on the node, and no reason not to start it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.agent.memory import AgentMemory
from enginekeeper.fleet.wire import Desired, DesiredEngine
from enginekeeper.orchestration.environments import environment_of
from registry.types import Engine
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import join
from tests.factories.inventories import inventory

Ek = Callable[..., Any]
IMAGE, OTHER = "nvcr.io/nvidia/release:1.1.0", "nvcr.io/nvidia/release:1.0.0"


@pytest.fixture
def into(ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a qualified engine of the channel was pulled, on a node to which it is assigned."""
    (variant,) = variants_of(tmp_path)
    made = site.publish(variant)
    site.judge(made, variant)
    where = environment_of(site.bench, made.key)
    site.bench.registry.set_channel("prod", made.digest, where, actor="anna")
    monkeypatch.setenv("ENGINEKEEPER_NODE", "gpu-1")
    join(site.bench.registry.catalogue, inventory("gpu-1"))
    ek("assign", "add", "*", made.model_name, "prod", "--container", IMAGE)
    assert ek("pull", "tiny", "--channel", "prod", "--into", tmp_path / "into").code == 0
    return tmp_path / "into"


def current(site: Site) -> Engine:
    with site.bench.registry.catalogue.read() as view:
        (found,) = view.positioned("prod", "tiny")
    return found


def test_resolve_names_the_image_that_is_assigned(ek: Ek, into: Path) -> None:
    assert into.is_dir()
    assert ek("resolve", "tiny", "--channel", "prod", "--json").json["containers"] == [IMAGE]
    assert f"in:       {IMAGE}, as it is assigned" in ek("resolve", "tiny", "--channel", "prod").out


def test_another_image_is_told_at_the_start_and_keeps_nothing_from_it(
    ek: Ek, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEKEEPER_CONTAINER_IMAGE", OTHER)
    said = ek("run-check", into / "current", "--json")
    assert (said.code, said.json["containers"]) == (0, [IMAGE])
    assert f"container: {IMAGE} is assigned, and {OTHER} was named here: by text" in said.err

    monkeypatch.setenv("ENGINEKEEPER_CONTAINER_IMAGE", IMAGE)
    assert "container:" not in ek("run-check", into / "current").err


def test_without_the_registry_the_image_is_what_the_agent_was_told(
    ek: Ek, site: Site, into: Path
) -> None:
    engine = str(current(site).digest)
    told = (
        DesiredEngine("tiny", "prod", engine, containers=(IMAGE,)),
        DesiredEngine("tiny", "canary", engine, containers=("no image",)),
        DesiredEngine("other", "prod", None, "none", (OTHER,)),
    )
    memory = AgentMemory(site.bench.settings.home)
    memory.keep_desired(Desired("gpu-1", told))
    said = ek("run-check", into / "current", "--offline", "--json")
    assert (said.code, said.json["containers"]) == (0, ["no image", IMAGE])
    assert "container: no image: not the name of a container image" in said.err
    assert f"{IMAGE} is assigned, and no image was named here" in said.err
    asked = ("run-check", "--model", "tiny", "--channel", "prod", "--offline", "--json")
    assert ek(*asked).json["containers"] == [IMAGE]

    (memory.directory / "desired.json").write_text("{")
    said = ek("run-check", into / "current", "--offline", "--json")
    assert (said.code, said.json["containers"]) == (0, [])
