"""SIMULATED: the classes of the LLM API, strict about what they are given.

They refuse what the release refuses, in its words where those are known (llmapi/llm.py,
sampling_params.py), and answer from the CPU executor. Nothing of it runs an engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensorrt_llm_release import EARLY, SAMPLING, STATE, check_arguments

from tensorrt_llm._executor import Executor, Zeros

_BLOCK = 32
"""Tokens in a block of the cache."""

AUTOTUNED = frozenset({"TLLM_AUTOTUNER_CACHE_PATH"})
CACHES: dict[str, dict[str, bytes]] = {
    "TLLM_AUTOTUNER_CACHE_PATH": {
        "": json.dumps(
            {"metadata": {"lib_version": "SIMULATED", "device_name": "SIMULATED"}}
        ).encode()
    },
    "TRTLLM_DG_CACHE_DIR": {"cache/kernel.gemm.0a1b/kernel.cubin": b"SIMULATED: no kernel"},
    "TRITON_CACHE_DIR": {
        "QX3K/rms_norm.json": b'{"simulated": true}', "QX3K/rms_norm.cubin": b"SIMULATED",
    },
    "FLASHINFER_WORKSPACE_BASE": {".cache/flashinfer/90a/cached_ops/x/x.so": b"SIMULATED: no ELF"},
    "TORCHINDUCTOR_CACHE_DIR": {"fxgraph/ab/fab/entry": b"SIMULATED: no pickle"},
}  # fmt: skip
"""What warming up leaves behind, by the variable that says where: names as the real ones have."""

_REQUESTED = {"logprobs": None, "prompt_logprobs": None, "top_k": None, "top_p": None, "n": 1,
              "max_tokens": 32, "end_id": None, "ignore_eos": False, "stop_token_ids": None,
              "include_stop_str_in_output": False, "return_context_logits": False,
              "return_generation_logits": False, "use_beam_search": False}  # fmt: skip


class KvCacheConfig:
    """Takes what the runner may say of the cache."""

    def __init__(
        self,
        *,
        enable_block_reuse: bool = True,
        free_gpu_memory_fraction: float | None = None,
        dtype: str = "auto",
    ) -> None:
        if dtype not in ("auto", "fp8"):
            raise ValueError(f"SIMULATED: no cache of {dtype}")
        self.enable_block_reuse = enable_block_reuse
        self.free_gpu_memory_fraction = free_gpu_memory_fraction


class SamplingParams:
    """Takes the fields that the release's class has, by name only."""

    def __init__(self, **given: Any) -> None:  # noqa: ANN401
        for name in sorted(given.keys() - SAMPLING):
            raise TypeError(
                f"SamplingParams.__init__() got an unexpected keyword argument '{name}'"
            )
        self.values = {**_REQUESTED, **given}
        greedy = self.values["top_k"] in (None, 1) and self.values["top_p"] in (None, 0.0)
        if not greedy or self.values["use_beam_search"]:
            raise AssertionError("SIMULATED: the double decodes greedily only")

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Returns a field; those nobody set have their defaults."""
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class CompletionOutput:
    """One continuation."""

    token_ids: list[int]
    generation_logits: Any = None
    finish_reason: str | None = None
    stop_reason: int | None = None
    text: str = ""
    logprobs: list[Any] = field(default_factory=list)


@dataclass
class RequestOutput:
    """What came of one prompt."""

    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    context_logits: Any = None


class Llm:
    """A model that was loaded; each backend has a class of its own."""

    backend = "tensorrt"

    def __init__(self, **given: Any) -> None:  # noqa: ANN401
        check_arguments(given, self.backend)
        if given.get("trust_remote_code"):
            raise AssertionError("SIMULATED: model code is never run")
        self.directory = Path(given["model"])
        self.given = given
        if self.directory not in STATE.models:
            raise AssertionError(f"SIMULATED: the double was not told of {self.directory}")
        self._limits = self._read_limits()
        model = STATE.models[self.directory]
        self._executor: Executor | Zeros | None = (
            Zeros(self.directory) if model is None else Executor(model)
        )
        self._cached: set[tuple[int, ...]] = set()
        if not given.get("skip_tokenizer_init"):
            raise AssertionError("SIMULATED: the double has no tokenizer")

    def generate(
        self,
        inputs: Sequence[Sequence[int]],
        sampling_params: SamplingParams | None = None,
        use_tqdm: bool = True,  # noqa: FBT001, FBT002 - as the release has it
    ) -> list[RequestOutput]:
        """Answers prompts, in their order."""
        del use_tqdm
        if not isinstance(sampling_params, SamplingParams):
            raise TypeError(
                "The sampling_params must be type SamplingParams or None, but got "
                f"{type(sampling_params)}"
            )
        if sampling_params.end_id is None:
            raise ValueError(
                "tokenizer is required to reset end_id if it is None, or you can explicitly "
                "specify the end_id for sampling_params"
            )
        if self._executor is None:
            raise RuntimeError("LLM is shutting down")
        self._on_request()
        prompts = [tuple(ids) for ids in inputs]
        for ids in prompts:
            self._check_request(ids, sampling_params)
        rows = self._executor.read(prompts)
        firsts = [rows[ids][-1] for ids in prompts]
        made = self._executor.continue_from(prompts, firsts, sampling_params.max_tokens)
        return [
            self._answer(ids, rows[ids], one, sampling_params)
            for ids, one in zip(prompts, made, strict=True)
        ]

    def shutdown(self) -> None:
        """Gives back what it holds."""
        self._executor = None

    def _answer(
        self,
        ids: tuple[int, ...],
        rows: torch.Tensor,
        continued: tuple[list[int], torch.Tensor],
        asked: SamplingParams,
    ) -> RequestOutput:
        made, logits = continued
        made, finish, reason = _until_stopped(made, asked)
        best = CompletionOutput(made, finish_reason=finish, stop_reason=reason)
        if asked.return_generation_logits:
            best.generation_logits = self._padded(logits[: len(made)])
        wanted = asked.return_context_logits
        context = self._padded(self._not_reused(ids, rows)) if wanted else None
        return RequestOutput(list(ids), [best], context)

    def _not_reused(self, ids: tuple[int, ...], rows: Any) -> Any:  # noqa: ANN401
        """Leaves out the rows of blocks that an earlier request left in the cache."""
        cache = self.given.get("kv_cache_config")
        reused = 0
        if cache is None or cache.enable_block_reuse:
            for end in range(_BLOCK, len(ids), _BLOCK):
                reused = end if ids[:end] in self._cached else reused
                self._cached.add(ids[:end])
        return rows[reused:]

    def _padded(self, rows: Any) -> Any:  # noqa: ANN401
        """Returns rows as wide as the backend's output matrix."""
        return rows

    def _on_request(self) -> None:
        """Does what a request leaves behind besides its answer."""

    def _read_limits(self) -> dict[str, Any]:
        raise NotImplementedError

    def _check_request(self, ids: tuple[int, ...], asked: SamplingParams) -> None:
        raise NotImplementedError


class EngineLlm(Llm):
    """The TensorRT backend: an engine directory."""

    def _read_limits(self) -> dict[str, Any]:
        config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        mapping = config["pretrained_config"].get("mapping") or {}
        for name, size in (
            ("tensor_parallel_size", "tp_size"),
            ("pipeline_parallel_size", "pp_size"),
        ):
            asked, built = self.given.get(name, 1), mapping.get(size, 1)
            if asked != built:
                raise ValueError(
                    f"{size} {asked} is not consistent with the engine's {size} {built}"
                )
        build: dict[str, Any] = config["build_config"]
        return {**build, "vocab_size": config["pretrained_config"].get("vocab_size", 0)}

    def _padded(self, rows: Any) -> Any:  # noqa: ANN401
        """Adds the columns of padding rows of the output matrix, which are zeros."""
        missing = max(self._limits["vocab_size"] - rows.shape[-1], 0)
        return torch.nn.functional.pad(rows, (0, missing))

    def _check_request(self, ids: tuple[int, ...], asked: SamplingParams) -> None:
        longest = self._limits["max_seq_len"]
        if len(ids) + asked.max_tokens > longest:
            raise ValueError(
                f"The sum of prompt length ({float(len(ids))}) and query length (0) max_tokens "
                f"({asked.max_tokens}) should not exceed max_seq_len ({longest})"
            )
        if len(ids) > self._limits["max_input_len"]:
            raise RuntimeError(
                f"Prompt length ({len(ids)}) exceeds maximum input length "
                f"({self._limits['max_input_len']})."
            )
        gathers = bool(self._limits.get("gather_context_logits"))
        if asked.return_context_logits and not gathers:
            raise RuntimeError(
                "Need to build engine with gather_context_logits to return context logits"
            )
        if asked.return_generation_logits and not self.given.get("gather_generation_logits"):
            raise RuntimeError("SIMULATED: generation logits need gather_generation_logits=True")
        if STATE.version in EARLY:
            return
        if asked.prompt_logprobs and not gathers:
            raise ValueError(
                f"`sampling_params's prompt_logprobs={asked.prompt_logprobs}` requires "
                "`gather_context_logits=True` in the `BuildConfig` when constructing the LLM."
            )
        if asked.logprobs and not self.given.get("gather_generation_logits"):
            raise ValueError(
                f"`sampling_params.logprobs={asked.logprobs}` requires "
                "`gather_generation_logits=True` to be passed explicitly to the `LLM()` "
                "constructor."
            )


class TorchLlm(Llm):
    """The PyTorch backend: a checkpoint in Hugging Face's format."""

    backend = "pytorch"

    def _on_request(self) -> None:
        """Fills the caches that variables lead somewhere, as tuning and compiling would."""
        for variable, files in CACHES.items():
            place = os.environ.get(variable)
            untuned = variable in AUTOTUNED and self.given.get("enable_autotuner") is False
            if place is None or untuned:
                continue
            if variable == "TORCHINDUCTOR_CACHE_DIR" and not self.given.get("torch_compile_config"):
                continue
            for name, content in files.items():
                path = Path(place) / name if name else Path(place)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._of_every_rank(content) if variable in AUTOTUNED else content)

    def _of_every_rank(self, tactics: bytes) -> bytes:
        """Adds a part of each rank to the one file that all of them write."""
        ranks = range(self.given.get("tensor_parallel_size") or 1)
        return json.dumps(
            {**json.loads(tactics), **{f"rank_{rank}": {} for rank in ranks}}
        ).encode()

    def _read_limits(self) -> dict[str, Any]:
        config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        if not config.get("architectures"):
            raise ValueError(f"{self.directory}: no architectures in config.json")
        self._check_ranks(config)
        return {
            "max_num_tokens": self.given.get("max_num_tokens") or 8192,
            "max_seq_len": self.given.get("max_seq_len") or config["max_position_embeddings"],
        }

    def _check_ranks(self, config: dict[str, Any]) -> None:
        """Refuses more ranks than there are GPUs, and heads that they cannot share."""
        tensor = self.given.get("tensor_parallel_size") or 1
        world = tensor * (self.given.get("pipeline_parallel_size") or 1)
        seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        if world > 1 and len(seen) < world:
            raise RuntimeError(f"Only {len(seen)} GPUs are available, but {world} are required.")
        heads = config["num_attention_heads"]
        shared = config.get("num_key_value_heads") or heads
        if heads % tensor or (shared % tensor and tensor % shared):
            raise AssertionError(f"{heads} heads and {shared} of keys on {tensor} ranks")

    def _check_request(self, ids: tuple[int, ...], asked: SamplingParams) -> None:
        most = self._limits["max_num_tokens"]
        if not self.given.get("enable_chunked_prefill") and len(ids) > most:
            raise ValueError(
                f"The sum of prompt length ({float(len(ids))}), query length (0) should not exceed "
                f"max_num_tokens ({most})"
            )
        if len(ids) + asked.max_tokens > self._limits["max_seq_len"]:
            raise ValueError(f"max_seq_len ({self._limits['max_seq_len']}) is exceeded")


def _until_stopped(
    made: list[int], asked: SamplingParams
) -> tuple[list[int], str | None, int | None]:
    """Ends a continuation where the request says: the end of text, a stop token, its length."""
    for place, token in enumerate(made):
        if token == asked.end_id and not asked.ignore_eos:
            return made[:place], "stop", None
        if token in (asked.stop_token_ids or ()):
            kept = place + 1 if asked.include_stop_str_in_output else place
            return made[:kept], "stop", token
    return made, "length", None
