"""A Llama of two small layers with random weights, written as a Hugging Face directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

HIDDEN, INNER, HEADS, KEY_HEADS, LAYERS, VOCABULARY = 128, 256, 4, 2, 2, 256

Weights = dict[str, NDArray[Any]]


def random_weights(seed: int = 0) -> Weights:
    """Returns the tensors by their Hugging Face names, in bfloat16."""
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[Any]:
        values: NDArray[Any] = generator.standard_normal((rows, columns)) / np.sqrt(columns)
        return values.astype(ml_dtypes.bfloat16)

    key = HIDDEN // HEADS * KEY_HEADS
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (key, HIDDEN),
        "self_attn.v_proj": (key, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    tensors: Weights = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = np.ones(HIDDEN, ml_dtypes.bfloat16)
    tensors["model.norm.weight"] = np.ones(HIDDEN, ml_dtypes.bfloat16)
    tensors["lm_head.weight"] = matrix(VOCABULARY, HIDDEN)
    return tensors


def llama_config() -> dict[str, Any]:
    """Returns the config in the form of transformers 5, with a rope base that is no default."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
        "dtype": "bfloat16",
    }


def write_model(directory: Path, config: dict[str, Any], weights: Weights) -> Path:
    """Writes a Hugging Face directory whose tokenizer has one id for each byte."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {**level, "use_regex": True},
        "decoder": {**level, "use_regex": True},
        "model": {"type": "BPE", "vocab": _byte_alphabet(), "merges": []},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins byte-level BPE has for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return {letters[byte]: byte for byte in range(256)}
