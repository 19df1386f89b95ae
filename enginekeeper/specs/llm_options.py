"""Options of the PyTorch backend that a bundle is made with, and their LLM-API file.

What is left out is left to the release's own default. The file is JSON, which is YAML, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM
from enginekeeper.specs.llm_api import interface_of

_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Part = Annotated[float, Field(gt=0.0, lt=1.0)]


@dataclass(frozen=True, kw_only=True, config=FORM)
class CudaGraphs:
    """Graphs that decoding is captured in."""

    enable_padding: bool | None = None
    """Rounds a batch up to the next size that was captured."""

    max_batch_size: _Count | None = None
    """The largest batch that is captured."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class KvCache:
    """The cache of keys and values."""

    enable_block_reuse: bool | None = None
    """Keeps blocks of earlier prompts for later ones that begin alike."""

    free_gpu_memory_fraction: _Part | None = None
    """Part of the memory that weights leave, between 0 and 1."""

    dtype: Literal["auto", "fp8"] | None = None
    """Format of keys and values; auto is what the checkpoint says."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class TorchCompile:
    """torch.compile; without this section it is off."""

    enable_fullgraph: bool | None = None
    """Compiles the model as one graph."""

    enable_inductor: bool | None = None
    """Generates kernels by Inductor."""

    enable_piecewise_cuda_graph: bool | None = None
    """Captures prompts in CUDA graphs, in pieces."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class Moe:
    """Mixtures of experts."""

    backend: Literal["CUTLASS", "CUTEDSL", "WIDEEP", "TRTLLM", "DEEPGEMM", "VANILLA"] | None = None
    """Kernels of the experts."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class LlmOptions:
    """What is asked of the LLM API besides the limits."""

    attn_backend: Literal["TRTLLM", "FLASHINFER", "VANILLA"] | None = None
    """Kernels of attention."""

    cuda_graph_config: CudaGraphs | None = None
    """Graphs that decoding is captured in."""

    disable_overlap_scheduler: bool | None = None
    """Turns off that the next step is prepared while one runs."""

    enable_autotuner: bool | None = None
    """Measures kernels when it starts; what it finds is one of the caches."""

    enable_chunked_prefill: bool | None = None
    """Takes long prompts in pieces."""

    kv_cache_config: KvCache | None = None
    """The cache of keys and values."""

    moe_config: Moe | None = None
    """Mixtures of experts."""

    torch_compile_config: TorchCompile | None = None
    """torch.compile; without this section it is off."""

    @property
    def given(self) -> dict[str, Any]:
        """The options that were said, as the LLM API names them."""
        return _given(asdict(self))


_LIMITS = ("max_batch_size", "max_num_tokens", "max_seq_len")


def llm_arguments(
    version: str, options: LlmOptions, limits: Mapping[str, int], tensor: int = 1, pipeline: int = 1
) -> dict[str, Any]:
    """Returns what the LLM API is given; raises InputError for what the release does not take."""
    asked = {
        **options.given,
        **{name: limits[name] for name in _LIMITS},
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
    }
    return interface_of(version, "pytorch").accepting(asked)


def llm_file(arguments: Mapping[str, Any]) -> str:
    """Returns the file that `trtllm-serve --extra_llm_api_options` reads."""
    return json.dumps(arguments, indent=2, sort_keys=True) + "\n"


def _given(section: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what was not said; an empty section is said, and stays."""
    return {
        name: _given(value) if isinstance(value, dict) else value
        for name, value in section.items()
        if value is not None
    }
