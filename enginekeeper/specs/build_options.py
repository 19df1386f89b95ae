"""The `build` section of a spec: options of `trtllm-build` beyond limits, parallel and paths.

What is left out is left to the release's own default and does not appear on the command line. The
names are the tool's own. Which releases have an option is in `build_flags.py`, and a rule refuses
one that the spec's release lacks; options that run code, read other files or belong to the builder
have no field here.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM

_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_CountOrNone = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Plugin = Literal["auto", "float16", "float32", "bfloat16", "int32", "disable"]
_Fp8 = Literal["fp8", "disable"]


@dataclass(frozen=True, kw_only=True, config=FORM)
class Build:
    """Options of trtllm-build; what is left out is left to the release's own default."""

    max_beam_width: _Count | None = None
    """Beams of a beam search."""

    opt_num_tokens: _Count | None = None
    """Tokens of an iteration that kernels are tuned for; not together with multiple_profiles."""

    max_encoder_input_len: _Count | None = None
    """Tokens of an encoder's input, in encoder-decoder models."""

    max_prompt_embedding_table_size: _CountOrNone | None = None
    """Rows of a prompt-tuning or multimodal table; 0 is none."""

    kv_cache_type: Literal["continuous", "paged", "disabled"] | None = None
    """How keys and values are kept."""

    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] | None = None
    """What the engine tells a profiler of its layers."""

    strip_plan: bool | None = None
    """Leaves the weights out of the engine; it has to be refitted before it is served."""

    weight_sparsity: bool | None = None
    """Lets TensorRT use structured sparsity."""

    weight_streaming: bool | None = None
    """Lets weights stay on the host and be streamed at run time."""

    fast_build: bool | None = None
    """Builds faster and may run slower; not with INT8 or INT4 without their plugins."""

    enable_debug_output: bool | None = None
    """Marks debugging outputs."""

    logits_dtype: Literal["float16", "float32"] | None = None
    """Number format of the logits."""

    gather_context_logits: bool | None = None
    """Keeps the logits of prompts, which prompt log-probabilities need; costs memory."""

    max_lora_rank: _Count | None = None
    """Largest rank of LoRA adapters, with lora_plugin."""

    speculative_decoding_mode: (
        Literal[
            "draft_tokens_external",
            "lookahead_decoding",
            "medusa",
            "explicit_draft_tokens",
            "eagle",
        ]
        | None
    ) = None
    """How draft tokens come about."""

    max_draft_len: _CountOrNone | None = None
    """Draft tokens of one step; they are added to max_seq_len."""

    gpus_per_node: _Count | None = None
    """GPUs of a node, for the automatic parallelism that releases from 1.2.0 on no longer have."""

    bert_attention_plugin: _Plugin | None = None
    """Attention kernels of encoder models, or disable."""

    gpt_attention_plugin: _Plugin | None = None
    """Attention kernels of decoder models, or disable."""

    gemm_plugin: (
        Literal["auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable"] | None
    ) = None
    """cuBLASLt for matrix products, in which format, or disable."""

    gemm_swiglu_plugin: _Fp8 | None = None
    """FP8 product and SwiGLU in one kernel; Hopper only."""

    fp8_rowwise_gemm_plugin: _Plugin | None = None
    """FP8 products with a scale per token and per channel."""

    nccl_plugin: _Plugin | None = None
    """Communication between GPUs."""

    lora_plugin: _Plugin | None = None
    """LoRA adapters."""

    dora_plugin: bool | None = None
    """DoRA adapters."""

    moe_plugin: _Plugin | None = None
    """Mixture-of-experts kernels."""

    mamba_conv1d_plugin: _Plugin | None = None
    """Mamba's convolution."""

    low_latency_gemm_plugin: _Fp8 | None = None
    """FP8 products for small batches."""

    low_latency_gemm_swiglu_plugin: _Fp8 | None = None
    """FP8 product and SwiGLU in one kernel for small batches."""

    gemm_allreduce_plugin: Literal["float16", "bfloat16", "disable"] | None = None
    """Product and all-reduce in one kernel."""

    context_fmha: bool | None = None
    """Fused attention for prompts."""

    bert_context_fmha_fp32_acc: bool | None = None
    """float32 accumulation in the fused attention of encoder models."""

    remove_input_padding: bool | None = None
    """Packs the tokens of requests without padding."""

    norm_quant_fusion: bool | None = None
    """Norm and quantization in one kernel; Llama with NVFP4 only."""

    reduce_fusion: bool | None = None
    """All-reduce, residual and norm in one kernel."""

    user_buffer: bool | None = None
    """Saves copies around communication; needs reduce_fusion, FP8 Llama only."""

    tokens_per_block: _Count | None = None
    """Tokens of a block of the paged KV cache."""

    use_paged_context_fmha: bool | None = None
    """Attention for prompts over the paged KV cache: cache reuse and chunked prompts need it."""

    use_fp8_context_fmha: bool | None = None
    """FP8 attention for prompts."""

    fuse_fp4_quant: bool | None = None
    """FP4 quantization within attention kernels."""

    multiple_profiles: bool | None = None
    """Several optimization profiles: longer builds; not together with opt_num_tokens."""

    paged_state: bool | None = None
    """Paged state of recurrent models."""

    streamingllm: bool | None = None
    """StreamingLLM; newer releases refuse it."""

    use_fused_mlp: bool | None = None
    """Fuses the gated MLP's two products."""

    pp_reduce_scatter: bool | None = None
    """Reduce-scatter in pipeline parallel; Mixtral only."""

    @property
    def given(self) -> dict[str, bool | int | str]:
        """The options that the spec sets, in the order of this form."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}
