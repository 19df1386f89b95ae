"""From a spec to its variants."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.errors import InputError
from enginekeeper.specs.loader import parse_spec
from enginekeeper.specs.matrix import expand
from enginekeeper.specs.model import BuildSpec
from enginekeeper.specs.recipes import RecipeName


def spec_of(**fields: Any) -> BuildSpec:  # noqa: ANN401 - the file's own shape
    form = {"model": {"name": "m", "path": "x"}, "targets": ["cpu"], "recipes": ["none"], **fields}
    return parse_spec(json.dumps(form).encode(), "spec.yaml")


def identifiers(**fields: Any) -> list[str]:  # noqa: ANN401 - the file's own shape
    return [str(variant.identifier) for variant in expand(spec_of(**fields))]


def test_the_product_is_in_the_order_of_the_lists() -> None:
    assert identifiers(targets=["h100-sxm", "l4"], recipes=["fp8", "none"]) == [
        "m.fp8.tp1.h100-sxm",
        "m.none.tp1.h100-sxm",
        "m.fp8.tp1.l4",
        "m.none.tp1.l4",
    ]


def test_an_identifier_tells_kv_cache_parallel_repair_and_labels() -> None:
    recipes = [
        {"recipe": "w8a16", "kv_cache": "fp8", "repair": "off"},
        {"recipe": "w4a16", "label": "w4-g32", "group_size": 32},
    ]
    targets = [{"gpu": "l4", "label": "l4-r535", "driver": "535.104.05"}]

    assert identifiers(
        recipes=recipes, targets=targets, parallel=[{"tensor": 2, "pipeline": 4}]
    ) == ["m.w8a16-kvfp8.tp2-pp4.l4-r535.unrepaired", "m.w4-g32.tp2-pp4.l4-r535"]


def test_exclusion_needs_every_field_of_a_rule() -> None:
    matrix = {"exclude": [{"recipe": "w*", "target": "b200"}, {"tensor": 2, "target": "l4"}]}

    assert identifiers(
        targets=["b200", "l4"],
        recipes=["fp8", "w8a16"],
        parallel=[{}, {"tensor": 2}],
        matrix=matrix,
    ) == [
        "m.fp8.tp1.b200",
        "m.fp8.tp2.b200",
        "m.fp8.tp1.l4",
        "m.w8a16.tp1.l4",
    ]


def test_inclusion_adds_what_exclusion_does_not_touch() -> None:
    matrix = {
        "exclude": [{"kv_cache": "auto", "pipeline": 1}],
        "include": [{"recipe": "nvfp4", "target": "b200", "parallel": {"tensor": 2}}],
    }

    assert identifiers(matrix=matrix) == ["m.nvfp4.tp2.b200"]


def test_a_rule_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"matrix\.exclude\[0\]: the rule fits no variant"):
        identifiers(matrix={"exclude": [{"recipe": "w8a61"}]})


def test_excluding_everything_is_an_error() -> None:
    with pytest.raises(InputError, match="every variant is excluded"):
        identifiers(matrix={"exclude": [{"tensor": 1}]})


@pytest.mark.parametrize(
    "fields",
    [
        {"recipes": ["fp8", "fp8"]},
        {"recipes": [{"recipe": "w4a16", "group_size": 64}, "w4a16"]},
        {"targets": ["l4", {"gpu": "l4", "driver": "580"}]},
        {"matrix": {"include": [{"recipe": "none", "target": "cpu"}]}},
    ],
)
def test_two_variants_of_one_name_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="two variants are called"):
        identifiers(**fields)


def test_a_matrix_has_an_upper_size() -> None:
    with pytest.raises(InputError, match="too large"):
        identifiers(recipes=["none"] * 100, parallel=[{}] * 11)


def test_a_recipe_overrides_single_limits_of_the_policy() -> None:
    (plain, costly) = expand(
        spec_of(
            recipes=["w8a16", {"recipe": "w4a16", "acceptance": {"max_quality_kl": 1.0}}],
            acceptance={"max_perplexity_ratio": 1.5},
        )
    )

    assert plain.acceptance.max_quality_kl == 0.02
    assert plain.limits_from["max_quality_kl"] == "default of w8a16"
    assert costly.acceptance.max_quality_kl == 1.0
    assert costly.acceptance.max_perplexity_ratio == 1.5


def test_a_variant_is_json() -> None:
    (variant,) = expand(spec_of())

    data = json.loads(json.dumps(variant.as_dict()))

    assert data["identifier"] == "m.none.tp1.cpu"
    assert data["recipe"]["recipe"] == "none"


_SUBSETS = st.fixed_dictionaries(
    {
        "targets": st.lists(
            st.sampled_from(["cpu", "h100-sxm", "l4", "b200"]), min_size=1, unique=True
        ),
        "recipes": st.lists(st.sampled_from(list(RecipeName)), min_size=1, unique=True),
        "parallel": st.lists(
            st.fixed_dictionaries({"tensor": st.integers(1, 4), "pipeline": st.integers(1, 4)}),
            min_size=1,
            unique_by=lambda parallel: (parallel["tensor"], parallel["pipeline"]),
            max_size=4,
        ),
    }
)


@settings(deadline=None)
@given(_SUBSETS)
def test_expansion_is_deterministic_complete_and_unique(fields: dict[str, Any]) -> None:
    first, second = expand(spec_of(**fields)), expand(spec_of(**fields))

    assert first == second
    names = {variant.identifier for variant in first}
    assert len(names) == len(first)
    assert len(first) == len(fields["targets"]) * len(fields["recipes"]) * len(fields["parallel"])


@settings(deadline=None)
@given(_SUBSETS, st.integers(1, 4))
def test_exclusion_leaves_exactly_what_does_not_fit(fields: dict[str, Any], tensor: int) -> None:
    whole = expand(spec_of(**fields))
    left = [variant for variant in whole if variant.parallel.tensor != tensor]
    matrix = {"exclude": [{"tensor": tensor}]}
    if left in ([], list(whole)):
        with pytest.raises(InputError):
            expand(spec_of(**fields, matrix=matrix))
    else:
        assert list(expand(spec_of(**fields, matrix=matrix))) == left
