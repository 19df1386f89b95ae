"""What the PyTorch backend cannot be asked for is refused in the plan, with a way out."""

from __future__ import annotations

from typing import Any

import pytest

from enginekeeper.compatibility.check import check
from enginekeeper.compatibility.rules import RuleHit, Severity
from enginekeeper.specs.problems import SpecError
from tests.unit.compatibility.conftest import LLAMA_8B, MakeCase


def _hits(make_case: MakeCase, recipe: Any = "fp8", **fields: Any) -> dict[str, RuleHit]:  # noqa: ANN401 - file's form
    fields = {"backend": "pytorch", **fields}
    case = make_case(fields.pop("gpu", "h100-sxm"), recipe, fields.pop("config", None), **fields)
    return {hit.rule: hit for hit in check(*case)}


@pytest.mark.parametrize("toolchain", ["tensorrt-llm-1.0.0", "simulated-tensorrt-llm-1.3.0rc22"])
def test_a_release_with_the_backend_speaks_against_nothing(
    toolchain: str, make_case: MakeCase
) -> None:
    assert _hits(make_case, toolchain=toolchain) == {}


def test_a_release_before_1_0_is_refused_with_the_releases_that_have_it(
    make_case: MakeCase,
) -> None:
    hit = _hits(make_case, toolchain="tensorrt-llm-0.21.0")["release-has-pytorch-backend"]

    assert hit.severity is Severity.REFUSE
    assert "from 1.0.0 on" in hit.expected
    assert hit.remedy == "set toolchain: tensorrt-llm-1.2.1"


@pytest.mark.parametrize(
    ("recipe", "fields", "rule"),
    [
        ("fp8", {"toolchain": "inductor"}, "pytorch-backend-needs-trtllm"),
        ("w8a8_sq", {}, "pytorch-recipe"),
        ("w4a8_awq", {}, "pytorch-recipe"),
        ("w4a16", {}, "pytorch-recipe"),
        ({"recipe": "fp8", "kv_cache": "int8"}, {}, "pytorch-kv-cache"),
        ({"recipe": "none", "kv_cache": "fp8"}, {}, "pytorch-kv-cache"),
        ("fp8", {"parallel": [{"pipeline": 2}]}, "pytorch-is-one-stage"),
        ("fp8", {"parallel": [{"tensor": 3}]}, "query-heads-by-tensor-parallel"),
        ("fp8", {"parallel": [{"tensor": 5}]}, "kv-heads-by-tensor-parallel"),
        ("fp8", {"build": {"gemm_plugin": "fp8"}}, "build-options-need-trtllm"),
        (
            "fp8",
            {"backend": "engine", "llm_api": {"enable_autotuner": False}},
            "llm-options-need-pytorch",
        ),
    ],
)
def test_what_it_cannot_be_asked_for_is_refused(
    recipe: Any,  # noqa: ANN401 - file's form
    fields: dict[str, Any],
    rule: str,
    make_case: MakeCase,
) -> None:
    assert _hits(make_case, recipe, **fields)[rule].severity is Severity.REFUSE


def test_a_model_as_it_is_is_bundled_like_a_quantized_one(make_case: MakeCase) -> None:
    assert _hits(make_case, "none") == {}


@pytest.mark.parametrize(
    ("tensor", "backend", "fires"),
    [(8, "pytorch", False), (16, "pytorch", False), (16, "engine", True)],
)
def test_keys_are_repeated_where_there_are_fewer_than_gpus_and_never_cut(
    tensor: int, backend: str, make_case: MakeCase, *, fires: bool
) -> None:
    hits = _hits(make_case, backend=backend, parallel=[{"tensor": tensor}])

    assert set(hits) == ({"kv-heads-by-tensor-parallel"} if fires else set())


def test_an_architecture_that_no_list_has_is_a_warning(make_case: MakeCase) -> None:
    config = {**LLAMA_8B, "architectures": ["NewForCausalLM"], "head_dim": 128}

    hit = _hits(make_case, config=config)["architecture-known-to-builder"]

    assert hit.severity is Severity.WARN
    assert "later commit" in hit.source


def test_an_option_that_is_none_is_refused_when_the_spec_is_read(make_case: MakeCase) -> None:
    with pytest.raises(SpecError, match="llm_api"):
        _hits(make_case, llm_api={"max_beam_width": 4})
