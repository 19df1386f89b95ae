"""TensorRT-LLM checkpoints of a tiny model: configs, and indexes of the tensors they promise."""

from __future__ import annotations

from typing import Any

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, INTERMEDIATE, VOCABULARY, LAYERS = 64, 4, 2, 16, 128, 96, 2

Index = dict[str, tuple[str, tuple[int, ...]]]


def checkpoint_config(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Returns a config as ModelOpt writes it, with every field TensorRT-LLM would read."""
    config: dict[str, Any] = {
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "logits_dtype": "float16",
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_size": HIDDEN,
        "head_size": HEAD_SIZE,
        "intermediate_size": INTERMEDIATE,
        "norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "hidden_act": "silu",
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": 100000.0,
        "share_embedding_table": False,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    }
    return {name: value for name, value in (config | changes).items() if value is not ...}


def quantization(algorithm: str | None, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Returns the quantization block of a recipe."""
    return {
        "quant_algo": algorithm,
        "kv_cache_quant_algo": None,
        "exclude_modules": ["lm_head"],
        **changes,
    }


def plain_index() -> Index:
    """Returns the tensors of an unquantized checkpoint: type and shape by name."""
    index: Index = {
        "transformer.vocab_embedding.weight": ("BF16", (VOCABULARY, HIDDEN)),
        "transformer.ln_f.weight": ("BF16", (HIDDEN,)),
        "lm_head.weight": ("BF16", (VOCABULARY, HIDDEN)),
    }
    for layer in range(LAYERS):
        prefix = f"transformer.layers.{layer}."
        index[f"{prefix}input_layernorm.weight"] = ("BF16", (HIDDEN,))
        index[f"{prefix}post_layernorm.weight"] = ("BF16", (HIDDEN,))
        for name, shape in linear_shapes().items():
            index[f"{prefix}{name}.weight"] = ("BF16", shape)
    return index


def linear_shapes() -> dict[str, tuple[int, int]]:
    """Returns outputs and inputs of a layer's linears."""
    heads = HEADS * HEAD_SIZE
    return {
        "attention.qkv": (heads + 2 * KV_HEADS * HEAD_SIZE, HIDDEN),
        "attention.dense": (HIDDEN, heads),
        "mlp.fc": (INTERMEDIATE, HIDDEN),
        "mlp.gate": (INTERMEDIATE, HIDDEN),
        "mlp.proj": (HIDDEN, INTERMEDIATE),
    }


def quantized_index(tensors: dict[str, tuple[str, str]]) -> Index:
    """Replaces each linear by the given tensors; shapes are text over O, I and G = I/16.

    For example `{"weight": ("I8", "O,I"), "weights_scaling_factor": ("F32", "O")}`.
    """
    index = plain_index()
    for layer in range(LAYERS):
        for name, (rows, columns) in linear_shapes().items():
            module = f"transformer.layers.{layer}.{name}"
            del index[f"{module}.weight"]
            sizes = {"O": rows, "O/2": rows // 2, "I": columns, "I/2": columns // 2}
            sizes |= {"G": columns // 16, "1": 1}
            for role, (dtype, shape) in tensors.items():
                index[f"{module}.{role}"] = (
                    dtype,
                    tuple(sizes[part] for part in shape.split(",") if part),
                )
    return index
