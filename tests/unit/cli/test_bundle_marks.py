"""A vLLM serving bundle is told from an engine where one is shown, and started as it was judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.orchestration.publication import names_of, publish
from enginekeeper.orchestration.tools import Maker
from enginekeeper.specs.fallback import stand_in
from enginekeeper.specs.variants import Variant
from registry.bundles import write_directory
from registry.exchange import evidence_of
from registry.types import Engine
from tests.factories.benches import TOOLS, Site, variants_of
from tests.factories.vllm_bundles import write_bundle

Ek = Callable[..., Any]


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    """What stands in for a variant of the tiny model."""
    return stand_in(variants_of(tmp_path, "[w8a16]", "fallback: vllm\n")[0])


@pytest.fixture
def bundle(site: Site, variant: Variant, tmp_path: Path) -> Engine:
    """A published bundle that passed."""
    builders = {**TOOLS.builders, "vllm-cpu": Maker("sha256:vllm", "ek-bundle-code-v1:bundle")}
    vars(site.bench)["tools"] = replace(TOOLS, builders=builders)
    directory = write_bundle(tmp_path / "bundle")
    built = replace(
        site.built(variant), directory=directory, checkpoint=None, names=names_of(variant, "tiny")
    )
    engine = publish(site.bench, built, variant)
    site.judge(engine, variant)
    return engine


def test_the_list_has_a_column_for_it(ek: Ek, bundle: Engine) -> None:
    (row,) = ek("engine", "list", "--json").json

    assert row["kind"] == "vLLM bundle"
    assert row["variant"] == "tiny.w8a16.tp1.cpu"
    assert ek("engine", "list", "--recipe", "vllm-bundle", "--json").json[0]["digest"] == str(
        bundle.digest
    )


@pytest.mark.parametrize("command", [("engine", "show"), ("gate",)])
def test_what_shows_it_says_that_it_is_no_engine(
    ek: Ek, bundle: Engine, command: tuple[str, ...]
) -> None:
    said = ek(*command, bundle.digest)

    assert said.code == 0, said.err
    assert "vLLM serving bundle, no engine" in said.out
    assert ek(*command, bundle.digest, "--json").json["serving_bundle"] is True


def test_the_gate_opens_on_its_verdict_and_a_channel_takes_it(ek: Ek, bundle: Engine) -> None:
    assert ek("channel", "set", "prod", bundle.digest).code == 0

    said = ek("resolve", "tiny", "--channel", "prod")

    assert said.code == 0, said.err
    assert said.out.startswith("vLLM serving bundle, no engine\n")


def test_where_marks_what_was_brought_here(ek: Ek, bundle: Engine, tmp_path: Path) -> None:
    assert ek("pull", bundle.digest, "--into", tmp_path / "node").code == 0

    checked = ek("run-check", tmp_path / "node" / "current")
    (row,) = ek("where", "--json").json

    assert checked.code == 0, checked.err
    assert "vLLM serving bundle, no engine" in checked.out

    assert row["variant"] == "tiny.w8a16.tp1.cpu (vLLM bundle)"
    assert row["gate"] == "open"


def test_it_is_started_by_the_options_that_were_judged(
    ek: Ek, site: Site, bundle: Engine, tmp_path: Path
) -> None:
    registry, place = site.bench.registry, tmp_path / "out"
    write_directory(registry.store, evidence_of(registry, bundle), place)

    said = ek("export", "vllm", place, "--port", "9000", "--json")

    assert said.json["command"][4:] == [
        "python", "-m", "vllm.entrypoints.openai.api_server", "--model", "{engine}/model",
        "--config", "{engine}/serve.yaml", "--host", "127.0.0.1", "--port", "9000",
    ]  # fmt: skip
    refused = ek("export", "triton", place)
    assert refused.code == 3
    assert "export vllm" in refused.err
