"""Estimated bytes against files ModelOpt 0.47.0 wrote for SmolLM2-135M."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from enginekeeper.compatibility.estimates import (
    estimate,
    kv_bytes_per_rank,
    kv_bytes_per_token,
    weight_bytes,
    weight_bytes_per_rank,
)
from enginekeeper.compatibility.facts import Facts
from enginekeeper.specs.variants import Variant


class MakeCase(Protocol):
    def __call__(
        self,
        target: Any,  # noqa: ANN401 - the file's own shape
        recipe: Any,  # noqa: ANN401
        config: Any = None,  # noqa: ANN401
        **fields: Any,  # noqa: ANN401
    ) -> tuple[Variant, Facts]: ...


SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
GROUP_64 = {"group_size": 64}


@pytest.mark.parametrize(
    ("recipe", "options", "written"),
    [
        ("none", {}, 325_677_320),
        ("fp8", {}, 219_544_320),
        ("fp8_per_channel_per_token", {}, 220_148_560),
        ("w8a16", {}, 220_148_560),
        ("w8a8_sq", {}, 220_416_176),
        ("w4a16", GROUP_64, 173_078_408),
        ("w4a16_awq", GROUP_64, 173_327_536),
        ("w4a8_awq", GROUP_64, 173_364_976),
        ("nvfp4", {}, 173_114_704),
    ],
)
def test_weight_bytes_are_the_size_of_the_file_less_its_header(
    recipe: str, options: dict[str, int], written: int, make_case: MakeCase
) -> None:
    variant, facts = make_case("cpu", {"recipe": recipe, **options}, SMOLLM2)

    header = written - weight_bytes(variant, facts.model)

    assert 0 < header < 120_000  # names, shapes and offsets of 272 to 1,000 tensors


def test_three_ranks_hold_a_third_each(make_case: MakeCase) -> None:
    variant, facts = make_case("l4", "w8a16", SMOLLM2, parallel=[{"tensor": 3}])

    written = 73_549_136  # rank 0 of three, from ModelOpt 0.47.0
    assert weight_bytes_per_rank(variant, facts.model) == pytest.approx(written, rel=0.005)


def test_a_token_of_llama_8b_costs_128_kib(make_case: MakeCase) -> None:
    variant, facts = make_case("h100-sxm", "none")

    assert kv_bytes_per_token(variant, facts.model) == 128 * 1024


def test_the_cache_is_spread_over_ranks(make_case: MakeCase) -> None:
    one, facts = make_case("h100-sxm", "none")
    four, _ = make_case("h100-sxm", "none", parallel=[{"tensor": 2, "pipeline": 2}])

    assert kv_bytes_per_rank(four, facts.model) * 4 == kv_bytes_per_rank(one, facts.model)


def test_awq_takes_longer_with_more_calibration_text(make_case: MakeCase) -> None:
    awq = {"recipe": "w4a16_awq", "group_size": 64}
    little = estimate(*make_case("cpu", awq, SMOLLM2))
    much = estimate(*make_case("cpu", awq, SMOLLM2, calibration={"samples": 32}))

    assert little.stages["quantize"] == pytest.approx(300)
    assert much.stages["quantize"] == pytest.approx(600)


def test_an_estimate_says_what_it_is_based_on(make_case: MakeCase) -> None:
    assert "measured" in estimate(*make_case("cpu", "none")).basis
    assert "reported by others" in estimate(*make_case("h100-sxm", "none")).basis
    unknown = {**SMOLLM2, "architectures": ["PhiForCausalLM"], "head_dim": 64}
    assert estimate(*make_case("l4", "none", unknown)).seconds is None


def test_a_recipe_that_rounds_activations_pays_for_a_second_twin(make_case: MakeCase) -> None:
    plain = estimate(*make_case("cpu", "w8a16", SMOLLM2))
    rounding = estimate(*make_case("cpu", "fp8", SMOLLM2))

    assert plain.stages["twin"] > 0
    assert rounding.stages["twin"] == 2 * plain.stages["twin"]


def test_a_shared_reference_is_not_paid_for_again(make_case: MakeCase) -> None:
    whole = estimate(*make_case("cpu", "none", SMOLLM2))

    rest = whole.without_reference()

    assert whole.seconds is not None
    assert rest.seconds == pytest.approx(whole.seconds - whole.stages["reference"])
