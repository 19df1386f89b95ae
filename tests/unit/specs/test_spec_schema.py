"""The schema that ships with the specs, and the specs that ship."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from enginekeeper.specs.acceptance import Acceptance
from enginekeeper.specs.gpus import CPU, gpu_products, target_names
from enginekeeper.specs.loader import load_variants
from enginekeeper.specs.profiles import BuilderKind, toolchain_profiles
from enginekeeper.specs.schema import build_spec_schema, schema_text

FOLDER = Path(__file__).parents[3] / "buildspecs"
SHIPPED = sorted(FOLDER.glob("*.yaml"))


def fields_of(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - JSON
    if isinstance(node, dict):
        for name, field in node.get("properties", {}).items():
            yield f"{path}.{name}", field
        for key, inner in node.items():
            yield from fields_of(inner, f"{path}.{key}")
    elif isinstance(node, list):
        for inner in node:
            yield from fields_of(inner, path)


def test_the_shipped_schema_is_the_generated_one() -> None:
    shipped = (FOLDER / "buildspec.schema.json").read_text(encoding="utf-8")

    assert shipped == schema_text(), (
        "stale: python -m enginekeeper.specs.schema buildspecs/buildspec.schema.json"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(build_spec_schema())


def test_every_field_is_described() -> None:
    bare = [path for path, field in fields_of(build_spec_schema()) if not field.get("description")]

    assert bare == []


def test_no_object_takes_unknown_fields() -> None:
    for form in build_spec_schema()["$defs"].values():
        if form.get("type") == "object":
            assert form["additionalProperties"] is False


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_spec_fits_the_schema_and_expands(path: Path) -> None:
    form = YAML(typ="safe", pure=True).load(path)

    jsonschema.validate(form, build_spec_schema())

    assert load_variants(path)


def test_the_demonstration_builds_what_the_readme_says() -> None:
    names = [str(v.identifier) for v in load_variants(FOLDER / "smollm2.yaml")]

    assert names == [
        "smollm2-135m.none.tp1.cpu",
        "smollm2-135m.w8a16.tp1.cpu",
        "smollm2-135m.fp8.tp1.cpu",
        "smollm2-135m.w4a16.tp1.cpu",
        "smollm2-135m.w8a16.tp1.cpu.unrepaired",
    ]


def test_the_reference_lists_every_shipped_spec_and_field() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")

    for path in SHIPPED:
        assert path.name in text
    for name in build_spec_schema()["properties"]:
        assert f"`{name}`" in text


@pytest.mark.parametrize("wrong", [{}, {"colour": "red"}, {"targets": ["h100"]}])
def test_the_schema_refuses_what_the_loader_refuses(wrong: dict[str, Any]) -> None:
    form = {"model": {"name": "m", "path": "x"}, "targets": ["cpu"], "recipes": ["none"]}
    broken = {**form, **wrong} if wrong else {}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, build_spec_schema())


def test_gpu_products_are_unique_and_plausible() -> None:
    products = gpu_products()

    assert len({gpu.product for gpu in products.values()}) == len(products)
    assert target_names() == (CPU, *products)
    for gpu in products.values():
        assert 20 << 30 < gpu.memory < 300 << 30
        assert 8 <= gpu.compute_capability.major <= 12


def test_the_gpus_the_fleet_is_expected_to_have_are_there() -> None:
    assert {
        "a100-sxm-40gb", "a100-sxm-80gb", "a100-pcie-40gb", "a100-pcie-80gb", "a30", "a10", "a40",
        "l4", "l40", "l40s", "h100-sxm", "h100-pcie", "h100-nvl", "h200-sxm", "gh200-96gb", "b200",
        "gb200", "b300", "rtx-pro-6000", "gb10",
    } <= set(gpu_products())  # fmt: skip


def test_a_profile_of_tensorrt_llm_says_what_it_needs() -> None:
    for profile in toolchain_profiles().values():
        release = profile.release
        builds = release is None or release.builds_engines
        assert ("LlamaForCausalLM" in profile.architectures) is builds
        if profile.builder is BuilderKind.TENSORRT_LLM:
            assert profile.cuda is not None
            assert profile.compute_capabilities


def test_the_default_policy_separates_measured_recipes_from_the_measured_fault() -> None:
    policy = Acceptance()
    # KL to the source in nats, perplexity over the source's 18.83; measured on SmolLM2-135M.
    honest = {"w8a16": (0.004, 18.93), "fp8": (0.067, 20.5)}
    refused = {"rotary_base": (0.256, 21.5), "w8a8_sq": (0.18, 23.8), "w4a16": (0.62, 25.2)}

    for kl, perplexity in honest.values():
        assert kl < policy.max_quality_kl
        assert perplexity / 18.83 < policy.max_perplexity_ratio
    for kl, perplexity in refused.values():
        assert kl > policy.max_quality_kl
        assert perplexity / 18.83 > policy.max_perplexity_ratio
