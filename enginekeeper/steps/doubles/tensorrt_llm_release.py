"""SIMULATED: which release the double is of, and what that release's classes take.

Written from NVIDIA's source and documentation of each release, and not from Enginekeeper's own
table: what both have wrong, no test shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EARLY = frozenset({"0.18.2", "0.19.0", "0.20.0", "0.21.0"})
LATE = frozenset({"1.0.0", "1.1.0", "1.2.0", "1.2.1", "1.3.0rc20"})
PYTORCH_ONLY = frozenset({"1.3.0rc22"})

_SHARED = frozenset({
    "model", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code",
    "tensor_parallel_size", "dtype", "revision", "tokenizer_revision", "pipeline_parallel_size",
    "context_parallel_size", "gpus_per_node", "moe_tensor_parallel_size",
    "moe_expert_parallel_size", "enable_attention_dp", "cp_config", "load_format", "enable_lora",
    "kv_cache_config", "enable_chunked_prefill", "guided_decoding_backend",
    "batched_logits_processor", "iter_stats_max_iterations", "request_stats_max_iterations",
    "peft_cache_config", "scheduler_config", "cache_transceiver_config", "speculative_config",
    "max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens",
    "gather_generation_logits", "backend",
})  # fmt: skip
_TENSORRT = frozenset({
    "enable_tqdm", "workspace", "enable_build_cache", "extended_runtime_perf_knob_config",
    "calib_config", "quant_config", "embedding_parallel_mode", "fast_build", "build_config",
    "batching_type", "normalize_log_probs",
})  # fmt: skip
_TORCH = frozenset({
    "build_config", "cuda_graph_config", "disable_overlap_scheduler", "moe_config", "attn_backend",
    "enable_trtllm_sampler", "enable_iter_perf_stats", "enable_iter_req_stats", "print_iter_log",
    "torch_compile_config", "enable_autotuner", "enable_layerwise_nvtx_marker",
    "enable_min_latency", "stream_interval", "force_dynamic_quantization", "allreduce_strategy",
    "checkpoint_loader", "checkpoint_format",
})  # fmt: skip
_ADDED = frozenset({
    "custom_tokenizer", "model_kwargs", "moe_cluster_parallel_size", "enable_lm_head_tp_in_adp",
    "pp_partition", "lora_config", "sparse_attention_config", "num_postprocess_workers",
    "postprocess_tokenizer_dir", "reasoning_parser", "otlp_traces_endpoint", "return_perf_metrics",
    "orchestrator_type", "env_overrides", "garbage_collection_gen0_threshold",
    "attention_dp_config", "nvfp4_gemm_config", "batch_wait_timeout_ms", "batch_wait_timeout_iters",
    "batch_wait_max_tokens_ratio", "kv_connector_config", "mm_encoder_only",
})  # fmt: skip
_ALONE = (_SHARED | _TORCH | _ADDED) - {"build_config", "enable_trtllm_sampler"}
"""Of TorchLlmArgs once it stood alone: what llm_args.py has at 000439672005, but for the newest."""

BACKENDS_ALONE = ("pytorch", "_autodeploy")
"""Values of `backend` since the TensorRT backend was removed."""

SAMPLING = frozenset({
    "end_id", "pad_id", "max_tokens", "bad", "bad_token_ids", "stop", "stop_token_ids",
    "include_stop_str_in_output", "embedding_bias", "logits_processor", "n", "best_of",
    "use_beam_search", "top_k", "top_p", "top_p_min", "top_p_reset_ids", "top_p_decay", "seed",
    "temperature", "min_tokens", "beam_search_diversity_rate", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "length_penalty", "early_stopping",
    "no_repeat_ngram_size", "logprobs", "prompt_logprobs", "return_context_logits",
    "return_generation_logits", "exclude_input_from_output", "return_encoder_output",
    "return_perf_metrics", "additional_model_outputs", "lookahead_config", "guided_decoding",
    "ignore_eos", "detokenize", "add_special_tokens", "truncate_prompt_tokens",
    "skip_special_tokens", "spaces_between_special_tokens",
})  # fmt: skip


@dataclass
class State:
    """What the double is told before it is imported as `tensorrt_llm`."""

    version: str = ""
    models: dict[Path, Path | None] = field(default_factory=dict)
    """What runs in place of each engine directory or checkpoint: a directory for the executor.

    None: nothing is computed, and answers are zeros.
    """


STATE = State()


def require_known() -> str:
    """Returns the release; raises AssertionError where none was said, or one without a double."""
    if STATE.version not in EARLY | LATE | PYTORCH_ONLY:
        raise AssertionError(f"SIMULATED: there is no double of {STATE.version!r}")
    return STATE.version


def check_arguments(given: dict[str, Any], backend: str) -> None:
    """Refuses what the constructor of a backend refuses, in its words."""
    if STATE.version in PYTORCH_ONLY:
        if given.get("backend", "pytorch") not in BACKENDS_ALONE:
            raise ValueError(f"Unsupported backend: {given['backend']}. PyTorch is the only one.")
        taken = _ALONE
    else:
        taken = _SHARED | (_TORCH if backend == "pytorch" else _TENSORRT)
    for name in sorted(given.keys() - taken):
        if STATE.version == "0.18.2":  # a dataclass then
            raise TypeError(f"LlmArgs.__init__() got an unexpected keyword argument '{name}'")
        owner = "TorchLlmArgs" if backend == "pytorch" else "TrtLlmArgs"
        raise ValueError(
            f"1 validation error for {owner}\n{name}\n  Extra inputs are not permitted "
            "[type=extra_forbidden]"
        )
