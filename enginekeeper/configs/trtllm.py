"""A TensorRT-LLM checkpoint's `config.json`; what a missing field means is for its readers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from enginekeeper.configs.form import Form, Layers, NotNegative, Positive, Size, Window
from enginekeeper.configs.scaling import Scaling


class Ranks(Form):
    """The `mapping` block: over how many ranks the tensors are spread."""

    world_size: Size | None = None
    tp_size: Size | None = None
    pp_size: Size | None = None
    cp_size: Size | None = None


class ModuleQuantization(Form):
    """How one module is quantized, as `quant_cfg.json` says."""

    quant_algo: str | None = None
    group_size: Size | None = None


class QuantizedModules(Form):
    """The `quant_cfg.json` beside the config of a checkpoint of several algorithms."""

    quantized_layers: dict[str, ModuleQuantization] | None = None


class QuantizationBlock(ModuleQuantization):
    """The `quantization` block."""

    kv_cache_quant_algo: str | None = None
    pre_quant_scale: bool | None = None
    has_zero_point: bool | None = None
    exclude_modules: list[str] | None = None


class RuntimeDefaults(Form):
    """What the engine is run with unless it is told otherwise."""

    max_attention_window: list[Size | None] | None = None


class TrtConfig(Form):
    """The decoder that a TensorRT-LLM config describes."""

    remedy: ClassVar[str] = "export the checkpoint again, or compare the file with such an export"

    num_hidden_layers: Layers
    architecture: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    logits_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    num_attention_heads: Size | None = None
    num_key_value_heads: Size | None = None
    hidden_size: Size | None = None
    head_size: Size | None = None
    intermediate_size: Size | None = None
    vocab_size: Size | None = None
    max_position_embeddings: Size | None = None
    norm_epsilon: NotNegative | None = None
    hidden_act: str | None = None
    attn_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_layernorm: bool | None = None
    position_embedding_type: str | None = None
    rotary_base: Positive | None = None
    rotary_pct: Positive | None = None
    rotary_embedding_dim: Size | None = None
    rotary_scaling: Scaling | None = None
    longrope_scaling_short_factors: list[Positive] | None = None
    longrope_scaling_long_factors: list[Positive] | None = None
    original_max_position_embeddings: Size | None = None
    sliding_window: Window | None = None
    runtime_defaults: RuntimeDefaults | None = None
    share_embedding_table: bool | None = None
    use_parallel_embedding: bool | None = None
    embedding_sharding_dim: Annotated[int, Field(ge=0, le=1)] | None = None
    mapping: Ranks | None = None
    quantization: QuantizationBlock | None = None
    residual_mlp: bool | None = None
    lm_head_bias: bool | None = None
    rmsnorm: bool | None = None
    use_logn_attn: bool | None = None
    q_scaling: NotNegative | None = None
    embedding_multiplier: NotNegative | None = None
    attention_multiplier: NotNegative | None = None
    residual_multiplier: NotNegative | None = None
    output_multiplier_scale: NotNegative | None = None
    logits_soft_cap: NotNegative | None = None
    clip_qkv: NotNegative | None = None

    @property
    def tensor_parallel(self) -> int:
        """Ranks that share each layer."""
        return (self.mapping or Ranks()).tp_size or 1

    @property
    def pipeline_parallel(self) -> int:
        """Stages that the layers are dealt to."""
        return (self.mapping or Ranks()).pp_size or 1

    @property
    def max_attention_window(self) -> list[int | None]:
        """How many latest tokens are attended to, repeating over the layers; None is all."""
        defaults = self.runtime_defaults or RuntimeDefaults()
        return [*(defaults.max_attention_window or [self.sliding_window or None])]
