"""Families that nothing here exports, audits or compiles, with the tensors and fields they have.

What is laid out as one of them must be refused, or left in doubt, by name: never pass, never crash.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.factories.families import Family, Layout, Weights

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_EXPERTS = 4


def _fused(weights: Weights, layout: Layout) -> None:
    """Phi-3: q, k and v are one matrix in the files, and so are gate and up."""
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}."
        for names, fused in (
            (_ATTENTION, "self_attn.qkv_proj"),
            (("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_up_proj"),
        ):
            parts = [weights.pop(f"{prefix}{name}.weight") for name in names]
            weights[f"{prefix}{fused}.weight"] = np.concatenate(parts)


def _one_less(weights: Weights, layout: Layout) -> None:
    """Gemma: a norm multiplies by its weight and 1."""
    del layout
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] -= np.float32(1)


def _around_the_mlp(weights: Weights, layout: Layout) -> None:
    """Gemma 2: norms before and after attention and the MLP."""
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}."
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            weights[f"{prefix}{name}.weight"] = weights[f"{prefix}input_layernorm.weight"].copy()


def _after(weights: Weights, layout: Layout) -> None:
    """OLMo 2: norms after attention and the MLP, and over all query and all key heads."""
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}."
        moved = weights.pop(f"{prefix}input_layernorm.weight")
        weights[f"{prefix}post_feedforward_layernorm.weight"] = moved
        for part, heads in (("q", layout.family.heads), ("k", layout.family.kv_heads)):
            ones = np.ones(heads * layout.head, np.float32)
            weights[f"{prefix}self_attn.{part}_norm.weight"] = ones


def _mixtral(weights: Weights, layout: Layout) -> None:
    """Mixtral: a router and some MLPs, with names of their own."""
    _experts(weights, layout, "block_sparse_moe", ("w1", "w3", "w2"))


def _qwen_moe(weights: Weights, layout: Layout) -> None:
    """Qwen2-MoE: the same under Llama's names, and an expert that is always asked."""
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}.mlp."
        for part in ("gate", "up", "down"):
            kept = weights[f"{prefix}{part}_proj.weight"].copy()
            weights[f"{prefix}shared_expert.{part}_proj.weight"] = kept
        gate = np.zeros((1, layout.hidden), np.float32)
        weights[f"{prefix}shared_expert_gate.weight"] = gate
    _experts(weights, layout, "mlp", ("gate_proj", "up_proj", "down_proj"))


def _experts(weights: Weights, layout: Layout, block: str, names: tuple[str, ...]) -> None:
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}."
        parts = [weights.pop(f"{prefix}mlp.{part}_proj.weight") for part in ("gate", "up", "down")]
        for expert in range(_EXPERTS):
            for name, part in zip(names, parts, strict=True):
                weights[f"{prefix}{block}.experts.{expert}.{name}.weight"] = part.copy()
        router = weights[f"{prefix}self_attn.k_proj.weight"][:_EXPERTS].copy()
        weights[f"{prefix}{block}.gate.weight"] = router


_GEMMA = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
_CAPPED = {
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 64,
    "sliding_window": 48,
}  # fmt: skip
_ROUTED = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.001}
_SHARED = {
    "num_experts": _EXPERTS, "moe_intermediate_size": 1536, "shared_expert_intermediate_size": 1536,
    "decoder_sparse_step": 1, "norm_topk_prob": False, "mlp_only_layers": [],
}  # fmt: skip

UNSUPPORTED: dict[str, Family] = {
    "phi3": Family("Phi3ForCausalLM", "phi3", tied=False, traits=(_fused,)),
    "gemma": Family("GemmaForCausalLM", "gemma", config=_GEMMA, traits=(_one_less,)),
    "gemma2": Family(
        "Gemma2ForCausalLM", "gemma2", config={**_GEMMA, **_CAPPED},
        traits=(_one_less, _around_the_mlp),
    ),
    "olmo2": Family("Olmo2ForCausalLM", "olmo2", tied=False, traits=(_after,)),
    "smollm3": Family(
        "SmolLM3ForCausalLM", "smollm3",
        config={"no_rope_layers": [1, 0, 1, 0], "no_rope_layer_interval": 2},
    ),
    "mixtral": Family(
        "MixtralForCausalLM", "mixtral", tied=False, traits=(_mixtral,),
        config={"num_local_experts": _EXPERTS, **_ROUTED},
    ),
    "qwen2-moe": Family(
        "Qwen2MoeForCausalLM", "qwen2_moe", qkv_bias=True, traits=(_qwen_moe,),
        config={**_SHARED, **_ROUTED},
    ),
}  # fmt: skip


def disguised(name: str) -> Family:
    """Returns a family whose config calls it a Llama: what is left to tell it apart is the rest."""
    family = UNSUPPORTED[name]
    return replace(family, architecture="LlamaForCausalLM", model_type="llama")
