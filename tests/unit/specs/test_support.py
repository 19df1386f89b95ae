"""By what a model can be served."""

from __future__ import annotations

import pytest

from enginekeeper.specs.support import Route, support_of


@pytest.mark.parametrize(
    ("architecture", "route"),
    [
        ("LlamaForCausalLM", Route.ENGINE),
        ("Llama4ForConditionalGeneration", Route.PYTORCH),
        ("GptOssForCausalLM", Route.PYTORCH),
        ("SmolLM3ForCausalLM", Route.AUTODEPLOY),
        ("OlmoeForCausalLM", Route.VLLM),
        ("FooForBar", Route.UNKNOWN),
    ],
)
def test_the_first_route_that_lists_a_model_is_named(architecture: str, route: Route) -> None:
    found = support_of(architecture)

    assert found.route is route
    assert found.advice


def test_engines_are_named_with_the_release_from_which_they_are() -> None:
    assert support_of("LlamaForCausalLM").engine_releases[0] == "tensorrt-llm-0.18.2"
    assert support_of("Qwen3ForCausalLM").engine_releases[0] == "tensorrt-llm-1.0.0"


def test_a_stable_release_is_advised() -> None:
    assert support_of("LlamaForCausalLM").advice == "set toolchain: tensorrt-llm-1.2.1"


def test_lists_that_spell_a_model_otherwise_know_it_all_the_same() -> None:
    assert Route.AUTODEPLOY in support_of("DeepseekV2ForCausalLM").listed


def test_every_list_says_whose_it_is() -> None:
    for source in support_of("LlamaForCausalLM").listed.values():
        assert "as of" in source
