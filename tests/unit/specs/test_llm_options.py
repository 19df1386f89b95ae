"""Options of the PyTorch backend: what is said is given, by names that the release takes."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from enginekeeper.errors import InputError
from enginekeeper.specs.llm_options import (
    CudaGraphs,
    KvCache,
    LlmOptions,
    TorchCompile,
    llm_arguments,
    llm_file,
)

LIMITS = {"max_batch_size": 8, "max_num_tokens": 2048, "max_seq_len": 1024, "max_input_len": 512}


def test_what_is_left_out_is_left_to_the_release() -> None:
    assert llm_arguments("1.2.1", LlmOptions(), LIMITS) == {
        "max_batch_size": 8, "max_num_tokens": 2048, "max_seq_len": 1024,
        "tensor_parallel_size": 1, "pipeline_parallel_size": 1,
    }  # fmt: skip


def test_what_is_said_is_given_and_an_empty_section_is_said() -> None:
    options = LlmOptions(
        cuda_graph_config=CudaGraphs(enable_padding=True),
        kv_cache_config=KvCache(dtype="fp8"),
        torch_compile_config=TorchCompile(),
        enable_autotuner=False,
    )

    given = json.loads(llm_file(llm_arguments("1.2.1", options, LIMITS, tensor=2)))

    assert given["cuda_graph_config"] == {"enable_padding": True}
    assert given["kv_cache_config"] == {"dtype": "fp8"}
    assert given["torch_compile_config"] == {}
    assert (given["enable_autotuner"], given["tensor_parallel_size"]) == (False, 2)


def test_a_release_without_the_backend_is_refused() -> None:
    with pytest.raises(InputError, match="no interface to the pytorch backend"):
        llm_arguments("0.21.0", LlmOptions(), LIMITS)


@pytest.mark.parametrize(
    "document",
    [
        {"enable_autotune": True},
        {"enable_autotuner": "yes"},
        {"kv_cache_config": {"free_gpu_memory_fraction": 1.5}},
        {"cuda_graph_config": {"max_batch_size": 0}},
        {"moe_config": {"backend": "FASTEST"}},
    ],
)
def test_what_is_no_option_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(LlmOptions).validate_json(json.dumps(document))
