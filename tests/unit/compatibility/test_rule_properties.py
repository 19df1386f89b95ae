"""Rules answer for every variant of every model, always the same, and estimates with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.compatibility.check import RULES, check, unchecked
from enginekeeper.compatibility.estimates import estimate
from enginekeeper.compatibility.facts import Facts, facts_of, model_facts, target_facts
from enginekeeper.compatibility.rules import Severity
from enginekeeper.specs.gpus import target_names
from enginekeeper.specs.loader import parse_spec
from enginekeeper.specs.matrix import expand
from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.specs.recipes import GROUPED, RecipeName
from enginekeeper.specs.variants import Variant

MakeCase = Callable[..., tuple[Variant, Facts]]

_SIZES = st.integers(1, 2**20)
_CONFIGS = st.fixed_dictionaries(
    {
        "architectures": st.sampled_from(
            [["LlamaForCausalLM"], ["Qwen3ForCausalLM"], ["PhiForCausalLM"], ["Unheard"]]
        ),
        "head_dim": st.integers(1, 512),
        "hidden_size": _SIZES,
        "intermediate_size": _SIZES,
        "max_position_embeddings": _SIZES,
        "num_attention_heads": st.integers(1, 256),
        "num_hidden_layers": st.integers(1, 200),
        "num_key_value_heads": st.integers(1, 256),
        "tie_word_embeddings": st.booleans(),
        "vocab_size": _SIZES,
    }
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Variant, Facts]:
    recipe: dict[str, Any] = {
        "recipe": draw(st.sampled_from(list(RecipeName))),
        "kv_cache": draw(st.sampled_from(["auto", "fp8", "int8"])),
    }
    if recipe["recipe"] in GROUPED:
        recipe["group_size"] = draw(st.sampled_from([16, 32, 64, 128, 256]))
    target: dict[str, Any] = {"gpu": draw(st.sampled_from(target_names()))}
    if target["gpu"] != "cpu":
        target["driver"] = f"{draw(st.integers(400, 700))}.{draw(st.integers(0, 200))}"
    length = draw(st.integers(1, 10**6))
    form = {
        "model": {"name": "m", "path": "x"},
        "targets": [target],
        "recipes": [recipe],
        "parallel": [{"tensor": draw(st.integers(1, 64)), "pipeline": draw(st.integers(1, 16))}],
        "limits": {
            "max_batch_size": draw(st.integers(1, 4096)),
            "max_input_len": length,
            "max_seq_len": length,
        },
        "toolchain": draw(st.sampled_from(list(toolchain_profiles()))),
    }
    (variant,) = expand(parse_spec(json.dumps(form).encode(), "spec.yaml"))
    return variant, facts_of(variant, model_facts(draw(_CONFIGS), "config.json"))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_rules_are_total_deterministic_and_refuse_first(case: tuple[Variant, Facts]) -> None:
    hits = check(*case)

    assert hits == check(*case)
    assert {hit.rule for hit in hits} <= {rule.identifier for rule in RULES}
    ranks = [list(Severity).index(hit.severity) for hit in hits]
    assert ranks == sorted(ranks)
    for hit in hits:
        assert hit.actual
        assert hit.expected
        assert json.dumps(hit.as_dict())


@settings(max_examples=200, deadline=None)
@given(cases())
def test_what_is_found_without_the_model_is_found_with_any_model(
    case: tuple[Variant, Facts],
) -> None:
    variant, facts = case

    early, late = check(variant, target_facts(variant)), check(variant, facts)

    assert set(early) <= set(late)
    later = {hit.rule for hit in set(late) - set(early)}
    assert later <= set(unchecked(target_facts(variant)))


def test_with_the_model_every_rule_is_checked(make_case: MakeCase) -> None:
    variant, facts = make_case("cpu", "none")

    assert unchecked(facts) == ()
    assert 0 < len(unchecked(target_facts(variant))) < len(RULES)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_estimates_are_total_and_ranks_hold_less_than_the_whole(
    case: tuple[Variant, Facts],
) -> None:
    cost = estimate(*case)

    assert cost.kv_bytes_per_rank > 0
    if cost.checkpoint_bytes is not None:
        assert cost.weight_bytes_per_rank is not None
        assert 0 < cost.weight_bytes_per_rank <= cost.checkpoint_bytes
        assert cost.seconds is not None
        assert cost.seconds > 0


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(2, 8))
def test_more_tokens_never_make_a_model_fit(case: tuple[Variant, Facts], more: int) -> None:
    variant, facts = case
    limits = replace(variant.limits, max_batch_size=variant.limits.max_batch_size * more)
    larger = replace(variant, limits=limits)

    fits, still_fits = (
        "model-fits-memory" not in {hit.rule for hit in check(each, facts)}
        for each in (variant, larger)
    )

    assert fits or not still_fits
