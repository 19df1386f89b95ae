"""The command line of `trtllm-build`, release by release, as its source declares it.

Written from NVIDIA/TensorRT-LLM's own files, not from Enginekeeper's table of options, so that the
two can be held against each other: `tensorrt_llm/commands/build.py` at 008b2b8d (1.0 pre-releases)
and 65f1d153 (1.2), `tensorrt_llm/plugin/plugin.py` at c20322ff (1.2), the 0.20.0 side of the merge
Ataraksia/TensorRT-LLM a451bf93, and the options that 0.17.0.post1 prints when it builds (0.18.x is
0.17.0 with newer dependencies), and what could be read of its `--help`, in
ai-bot-pro/achatbot#129. What 0.19.0 declares beside plugins was not found, nor the half of those of
0.18.2; they are taken to declare what 0.20.0 does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

RELEASES = ("0.18.2", "0.19.0", "0.20.0", "0.21.0", "1.0.0", "1.1.0", "1.2.0", "1.2.1")

_SEVERITIES = ("internal_error", "error", "warning", "info", "verbose", "debug", "trace")
_LORA_MODULES = (
    "attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h",
    "mlp_gate", "cross_attn_qkv", "cross_attn_q", "cross_attn_k", "cross_attn_v",
    "cross_attn_dense", "moe_h_to_4h", "moe_4h_to_h", "moe_gate", "moe_router", "mlp_router",
    "mlp_gate_up",
)  # fmt: skip
_CLUSTERS = ("A100-SXM-80GB", "H100-SXM", "H100-PCIe", "L40S", "L4")
"""A few of those that exist; the whole list was not read."""

_ANY = ["auto", "float16", "float32", "bfloat16", "int32"]
_PLUGINS: dict[str, tuple[list[str], str | None]] = {
    "bert_attention_plugin": (_ANY, "auto"),
    "gpt_attention_plugin": (_ANY, "auto"),
    "gemm_plugin": ([*_ANY, "fp8", "nvfp4"], None),
    "gemm_swiglu_plugin": (["fp8"], None),
    "fp8_rowwise_gemm_plugin": (_ANY, None),
    "nccl_plugin": (_ANY, "auto"),
    "lora_plugin": (_ANY, None),
    "moe_plugin": (_ANY, "auto"),
    "mamba_conv1d_plugin": (_ANY, "auto"),
    "low_latency_gemm_plugin": (["fp8"], None),
    "low_latency_gemm_swiglu_plugin": (["fp8"], None),
    "gemm_allreduce_plugin": (["float16", "bfloat16"], None),
}
_FEATURES: dict[str, bool] = {
    "dora_plugin": False,
    "context_fmha": True,
    "bert_context_fmha_fp32_acc": False,
    "remove_input_padding": True,
    "norm_quant_fusion": False,
    "reduce_fusion": False,
    "user_buffer": False,
    "use_paged_context_fmha": True,
    "use_fp8_context_fmha": True,
    "fuse_fp4_quant": False,
    "multiple_profiles": False,
    "paged_state": True,
    "streamingllm": False,
    "use_fused_mlp": True,
    "pp_reduce_scatter": False,
}
_NOT_IN_0_17 = frozenset(
    {"dora_plugin", "gemm_allreduce_plugin", "norm_quant_fusion", "fuse_fp4_quant"}
)
_OTHERWISE_IN_0_17: dict[str, Any] = {
    "tokens_per_block": 64,
    "use_paged_context_fmha": False,
    "use_fp8_context_fmha": False,
}


def parser_of(version: str) -> argparse.ArgumentParser:
    """Returns the parser of a release."""
    parser = argparse.ArgumentParser(
        prog="trtllm-build", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    _paths(parser)
    _sizes(parser)
    _cache(parser, version)
    _engine(parser)
    _logits_and_lora(parser)
    if _release(version) < (1, 2):
        _auto_parallel(parser)
    _plugin_options(parser, version)
    return parser


def _release(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def _paths(parser: argparse.ArgumentParser) -> None:
    for name in ("checkpoint_dir", "model_config", "build_config", "model_cls_file"):
        parser.add_argument(f"--{name}", type=str, default=None, help="path")
    parser.add_argument("--model_cls_name", type=str, default=None, help="class")
    parser.add_argument("--output_dir", type=str, default="engine_outputs", help="path")


def _sizes(parser: argparse.ArgumentParser) -> None:
    def size(*names: str, default: int | None) -> None:
        parser.add_argument(*names, type=int, default=default, help="size")

    size("--max_batch_size", default=2048)
    size("--max_input_len", default=1024)
    size("--max_seq_len", "--max_decoder_seq_len", default=None)
    size("--max_beam_width", default=1)
    size("--max_num_tokens", default=8192)
    size("--opt_num_tokens", default=None)
    size("--max_encoder_input_len", default=1024)
    size("--max_prompt_embedding_table_size", "--max_multimodal_len", default=0)


def _kv_cache_type(version: str) -> Callable[[str], str]:
    """Three releases, three ways to read the same three words."""
    known = ("continuous", "paged", "disabled")

    def by_value(value: str) -> str:
        if value.lower() not in known:
            raise ValueError(value)
        return value.upper()

    by_value.__name__ = "KVCacheType"

    def by_name(value: str) -> str:
        if value.lower() not in known:
            names = [name.lower() for name in known]
            raise argparse.ArgumentTypeError(f"Invalid value '{value}'. Expected one of {names}")
        return value.upper()

    return by_name if _release(version) == (1, 0) else by_value


def _cache(parser: argparse.ArgumentParser, version: str) -> None:
    parser.add_argument(
        "--kv_cache_type", default=argparse.SUPPRESS, type=_kv_cache_type(version), help="type"
    )
    parser.add_argument("--paged_kv_cache", type=str, default=argparse.SUPPRESS, help="old")
    parser.add_argument("--input_timing_cache", type=str, default=None, help="path")
    parser.add_argument("--output_timing_cache", type=str, default="model.cache", help="path")
    parser.add_argument(
        "--profiling_verbosity",
        type=str,
        default="layer_names_only",
        choices=["layer_names_only", "detailed", "none"],
        help="verbosity",
    )


def _engine(parser: argparse.ArgumentParser) -> None:
    for name in ("strip_plan", "weight_sparsity", "weight_streaming", "fast_build"):
        parser.add_argument(f"--{name}", default=False, action="store_true", help="switch")
    parser.add_argument("--workers", type=int, default=1, help="number")
    parser.add_argument(
        "--log_level", type=str, default="info", choices=list(_SEVERITIES), help="level"
    )
    parser.add_argument("--enable_debug_output", default=False, action="store_true", help="switch")
    parser.add_argument("--visualize_network", type=str, default=None, help="path")
    parser.add_argument("--dry_run", default=False, action="store_true", help="switch")
    parser.add_argument("--monitor_memory", default=False, action="store_true", help="switch")


def _logits_and_lora(parser: argparse.ArgumentParser) -> None:
    logits = parser.add_argument_group("Logits arguments")
    logits.add_argument(
        "--logits_dtype", type=str, default=None, choices=["float16", "float32"], help="type"
    )
    for which in ("context_logits", "generation_logits", "all_token_logits"):
        logits.add_argument(f"--gather_{which}", action="store_true", default=False, help="switch")
    lora = parser.add_argument_group("LoRA arguments")
    lora.add_argument("--lora_dir", type=str, default=None, nargs="+", help="paths")
    lora.add_argument(
        "--lora_ckpt_source", type=str, default="hf", choices=["hf", "nemo"], help="type"
    )
    lora.add_argument(
        "--lora_target_modules", nargs="+", default=None, choices=_LORA_MODULES, help="modules"
    )
    lora.add_argument("--max_lora_rank", type=int, default=64, help="rank")
    drafts = parser.add_argument_group("Speculative decoding arguments")
    drafts.add_argument(
        "--speculative_decoding_mode",
        default=None,
        choices=[
            "draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens",
            "eagle",
        ],
        help="mode",
    )  # fmt: skip
    drafts.add_argument("--max_draft_len", type=int, default=0, help="length")


def _auto_parallel(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Auto parallel arguments")
    group.add_argument("--auto_parallel", type=int, default=1, help="world size")
    group.add_argument("--gpus_per_node", type=int, default=8, help="number")
    group.add_argument("--cluster_key", type=str, default=None, choices=_CLUSTERS, help="cluster")


def plugin_fields(version: str) -> dict[str, Any]:
    """Returns the plugin options of a release and what each is by default, as the config has it."""
    fields: dict[str, Any] = {name: default for name, (_, default) in _PLUGINS.items()}
    fields |= _FEATURES | {"tokens_per_block": 32}
    if _release(version) == (0, 18):
        fields |= _OTHERWISE_IN_0_17
        return {name: value for name, value in fields.items() if name not in _NOT_IN_0_17}
    return fields


def _plugin_options(parser: argparse.ArgumentParser, version: str) -> None:
    group = parser.add_argument_group("Plugin config arguments")
    for name, default in plugin_fields(version).items():
        if name in _PLUGINS:
            shown = default if name == "gemm_plugin" else default or "disable"
            choices = [*_PLUGINS[name][0], "disable"]
            group.add_argument(f"--{name}", type=str, default=shown, choices=choices, help="plugin")
        elif name in _FEATURES:
            shown = "enable" if default else "disable"
            group.add_argument(
                f"--{name}", type=str, default=shown, choices=["enable", "disable"], help="feature"
            )
        else:
            group.add_argument(f"--{name}", type=int, default=default, help="size")
