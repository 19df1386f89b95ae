"""What the plan says of a model whose engines nothing builds, with and without a fallback."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.interface import DriverState
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.plan import Action, PlannedVariant
from enginekeeper.orchestration.planning import plan_variants
from enginekeeper.orchestration.stages import Source
from enginekeeper.orchestration.tools import Maker
from tests.factories.benches import TOOLS, Site, variants_of
from tests.factories.registry import WEIGHTS
from tests.factories.tiny_olmo2 import write_olmo2

VLLM = Maker("sha256:vllm", "ek-bundle-code-v1:bundle")
GPU = "targets: [h100-sxm]\ntoolchain: tensorrt-llm-1.2.1\n"
FALLBACK = "fallback: vllm\n"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(write_olmo2(tmp_path / "olmo2"), WEIGHTS)


@pytest.fixture
def planning(site: Site) -> Site:
    """A bench whose host has vLLM's toolchains, too."""
    builders = {**TOOLS.builders, "vllm-cpu": VLLM, "vllm": VLLM}
    vars(site.bench)["tools"] = replace(TOOLS, builders=builders)
    return site


def planned(
    site: Site, source: Source, directory: Path, more: str = "", recipes: str = "[w8a16]"
) -> tuple[PlannedVariant, ...]:
    found = plan_variants(site.bench, variants_of(directory, recipes, more), source)
    json.dumps([one.as_dict() for one in found], allow_nan=False)
    return found


def test_without_a_fallback_it_is_refused_and_the_fallback_is_named(
    planning: Site, source: Source, tmp_path: Path
) -> None:
    (one,) = planned(planning, source, tmp_path)

    assert (one.action, one.rule) == (Action.REFUSE, "architecture-known-to-builder")
    assert "fallback: vllm" in str(one.hits[0].remedy)
    assert one.unchecked == ()


def test_with_a_fallback_a_bundle_stands_in_under_the_variants_name(
    planning: Site, source: Source, tmp_path: Path
) -> None:
    (refused,) = planned(planning, source, tmp_path)
    (one,) = planned(planning, source, tmp_path, FALLBACK)

    assert (one.action, one.rule) == (Action.BUILD, "fallback-vllm")
    assert one.variant.identifier == refused.variant.identifier
    assert one.as_dict()["serving_bundle"] is True
    assert one.key is not None
    assert one.key.hard["builder"] == "vllm"
    assert [str(hit.severity) for hit in one.hits] == ["warn"]


def test_variants_of_two_recipes_share_a_bundle(
    planning: Site, source: Source, tmp_path: Path
) -> None:
    one, other = planned(planning, source, tmp_path, FALLBACK, "[w8a16, w4a16_awq]")

    assert one.key is not None
    assert other.key is not None
    assert one.key.digest() == other.key.digest()
    assert one.variant.identifier != other.variant.identifier


def test_what_is_planned_again_is_the_specs_own_variant(
    planning: Site, source: Source, tmp_path: Path
) -> None:
    (one,) = planned(planning, source, tmp_path, FALLBACK)

    (again,) = plan_variants(planning.bench, [one.asked], source)

    assert (again.rule, again.variant) == (one.rule, one.variant)


def test_on_a_gpu_it_is_built_where_that_gpu_is(
    planning: Site, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "driver", lambda _: DriverState("580.95.05", "13.0"))
    (away,) = planned(planning, source, tmp_path, GPU + FALLBACK)
    vars(planning.bench)["gpus"] = (GpuKind("NVIDIA H100 80GB HBM3", "9.0"),)
    (there,) = planned(planning, source, tmp_path, GPU + FALLBACK)

    assert away.action is Action.ELSEWHERE
    assert (there.action, there.variant.toolchain) == (Action.BUILD, "vllm")


def test_a_spec_that_is_wrong_for_its_target_is_refused_all_the_same(
    planning: Site, source: Source, tmp_path: Path
) -> None:
    (one,) = planned(planning, source, tmp_path, f"parallel: [{{tensor: 2}}]\n{FALLBACK}")

    assert (one.action, one.rule) == (Action.REFUSE, "cpu-is-one-rank")


def test_a_model_that_has_a_builder_is_built_by_it(planning: Site, tmp_path: Path) -> None:
    (one,) = planned(planning, planning.source, tmp_path, FALLBACK)

    assert (one.action, one.rule) == (Action.BUILD, "no-engine-of-this-key")
    assert not one.variant.is_vllm_bundle
