"""Options of trtllm-build that a release lacks, that exclude each other, or nobody has seen."""

from __future__ import annotations

from typing import Any

import pytest

from enginekeeper.compatibility.check import check
from enginekeeper.compatibility.rules import RuleHit, Severity
from tests.unit.compatibility.conftest import LLAMA_8B, MakeCase


def _hits(make_case: MakeCase, build: dict[str, Any], **fields: Any) -> dict[str, RuleHit]:  # noqa: ANN401 - file's form
    case = make_case(fields.pop("gpu", "h100-sxm"), "fp8", build=build, **fields)
    return {hit.rule: hit for hit in check(*case)}


def test_an_option_the_release_lacks_is_refused_with_those_that_have_it(
    make_case: MakeCase,
) -> None:
    hits = _hits(make_case, {"gpus_per_node": 8, "gemm_plugin": "fp8"})

    hit = hits["release-has-option"]
    assert hit.severity is Severity.REFUSE
    assert hit.actual == "--gpus_per_node under tensorrt-llm-1.2.1"
    assert hit.expected == "--gpus_per_node: 0.18.2, 0.19.0, 0.20.0, 0.21.0, 1.0.0"


def test_an_option_that_nobody_has_seen_in_the_release_is_a_warning(make_case: MakeCase) -> None:
    hits = _hits(make_case, {"gpus_per_node": 8}, toolchain="tensorrt-llm-1.1.0")

    assert hits["option-not-verified"].severity is Severity.WARN
    assert "release-has-option" not in hits


def test_options_the_release_has_say_nothing(make_case: MakeCase) -> None:
    assert _hits(make_case, {"gemm_plugin": "fp8", "reduce_fusion": True}) == {}


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        ({"multiple_profiles": True, "opt_num_tokens": 8}, "profiles-or-opt-num-tokens"),
        ({"gather_context_logits": True, "max_draft_len": 4}, "context-logits-or-draft-tokens"),
        ({"pp_reduce_scatter": True}, "pp-reduce-scatter-is-mixtrals"),
        ({"streamingllm": True}, "streamingllm-is-gone"),
        ({"lora_plugin": "auto"}, "adapters-need-modules"),
        ({"strip_plan": True, "fast_build": True}, "stripped-or-fast"),
    ],
)
def test_options_that_the_tool_refuses_are_refused_before(
    build: dict[str, Any], rule: str, make_case: MakeCase
) -> None:
    hits = _hits(make_case, build)

    assert list(hits) == [rule]
    assert hits[rule].severity is Severity.REFUSE


def test_streamingllm_passes_for_llama_where_nobody_read_that_it_is_gone(
    make_case: MakeCase,
) -> None:
    assert "streamingllm-is-gone" not in _hits(
        make_case, {"streamingllm": True}, toolchain="tensorrt-llm-1.0.0"
    )


def test_streamingllm_is_refused_before_for_models_that_the_tool_refuses_it_for(
    make_case: MakeCase,
) -> None:
    qwen = {**LLAMA_8B, "architectures": ["Qwen2ForCausalLM"]}

    hits = _hits(make_case, {"streamingllm": True}, toolchain="tensorrt-llm-1.0.0", config=qwen)

    assert hits["streamingllm-is-gone"].severity is Severity.REFUSE
    assert hits["streamingllm-is-gone"].expected == "LlamaForCausalLM"


@pytest.mark.parametrize("build", [
    {"multiple_profiles": False, "opt_num_tokens": 8},
    {"gather_context_logits": True, "max_draft_len": 0},
    {"pp_reduce_scatter": False},
    {"lora_plugin": "disable"},
    {"strip_plan": True, "fast_build": False},
])  # fmt: skip
def test_half_of_a_pair_is_no_pair(build: dict[str, Any], make_case: MakeCase) -> None:
    assert _hits(make_case, build) == {}


@pytest.mark.parametrize(
    ("gpu", "value", "fires"),
    [("b200", "fp8", True), ("b200", "disable", False), ("h100-sxm", "fp8", False)],
)
def test_a_plugin_without_kernels_for_10_0_is_refused_there(
    gpu: str, value: str, make_case: MakeCase, *, fires: bool
) -> None:
    hits = _hits(make_case, {"low_latency_gemm_plugin": value}, gpu=gpu)

    assert ("plugin-not-on-10.0" in hits) is fires


def test_the_embedded_builder_takes_no_options_of_trtllm_build(make_case: MakeCase) -> None:
    hits = _hits(make_case, {"gemm_plugin": "fp8"}, gpu="cpu")

    assert hits["build-options-need-trtllm"].severity is Severity.REFUSE


def test_a_release_without_the_engine_backend_is_refused_with_the_last_that_has_it(
    make_case: MakeCase,
) -> None:
    hits = _hits(make_case, {}, toolchain="tensorrt-llm-1.3.0rc22")

    assert "architecture-known-to-builder" not in hits
    hit = hits["release-builds-engines"]
    assert hit.severity is Severity.REFUSE
    assert hit.remedy is not None
    assert "tensorrt-llm-1.2.1" in hit.remedy


def test_a_double_without_the_engine_backend_is_sent_to_a_double(make_case: MakeCase) -> None:
    hit = _hits(make_case, {}, toolchain="simulated-tensorrt-llm-1.3.0rc22")[
        "release-builds-engines"
    ]

    assert hit.expected == "a release up to 1.2.1 (pre-releases: up to 1.3.0rc20)"
    assert hit.remedy == ("set toolchain: simulated-tensorrt-llm-1.2.1, or backend: pytorch")


def test_the_form_of_modelopts_w8a16_is_a_warning_for_gpus_alone(make_case: MakeCase) -> None:
    on_gpu = {
        hit.rule: hit for hit in check(*make_case("l4", "w8a16", limits={"max_batch_size": 1}))
    }

    assert on_gpu["w8a16-export-form"].severity is Severity.WARN
    assert check(*make_case("cpu", "w8a16")) == ()
