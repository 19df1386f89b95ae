"""Small random decoders of each family, as a Hugging Face directory and as a checkpoint.

Both hold the same numbers: the checkpoint is what an export of the directory would be, with every
field of the config that TensorRT-LLM reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

HIDDEN, INNER, HEADS, KEY_HEADS, HEAD_SIZE, LAYERS, VOCABULARY = 64, 96, 4, 2, 16, 2, 128
EPSILON, BASE, POSITIONS = 1e-6, 50000.0, 256

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Family:
    """What sets one family, or one variation of it, apart."""

    architecture: str = "LlamaForCausalLM"
    model_type: str = "llama"
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    hf: Mapping[str, Any] = field(default_factory=dict)
    trtllm: Mapping[str, Any] = field(default_factory=dict)


LLAMA3_ROPE = {
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"factor": 4.0, "original_max_position_embeddings": 64}

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "llama-tied": Family(tied=True),
    "llama-rope-linear": Family(
        hf={"rope_parameters": {"rope_type": "linear", "rope_theta": BASE, "factor": 4.0}},
        trtllm={"rotary_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "llama-rope-llama3": Family(
        hf={"rope_parameters": {"rope_type": "llama3", "rope_theta": BASE, **LLAMA3_ROPE}},
        trtllm={"rotary_scaling": {"type": "llama3", **LLAMA3_ROPE}},
    ),
    "llama-rope-yarn": Family(
        hf={"rope_parameters": {"rope_type": "yarn", "rope_theta": BASE, **YARN_ROPE}},
        trtllm={"rotary_scaling": {"type": "yarn", **YARN_ROPE}},
    ),
    "mistral-window": Family(
        architecture="MistralForCausalLM",
        model_type="mistral",
        hf={"sliding_window": 24},
        trtllm={"runtime_defaults": {"max_attention_window": [24]}},
    ),
    "qwen2": Family(architecture="Qwen2ForCausalLM", model_type="qwen2", qkv_bias=True),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        qk_norm=True,
        trtllm={"attn_bias": False},
    ),
}


def write_decoder(family: Family, directory: Path) -> tuple[Path, Path]:
    """Writes `hf` and `checkpoint` below a directory and returns both."""
    weights = _Weights(family)
    source, checkpoint = directory / "hf", directory / "checkpoint"
    for place, config, tensors, name in (
        (source, _hf_config(family), weights.hf(), "model.safetensors"),
        (checkpoint, _trtllm_config(family), weights.trtllm(), "rank0.safetensors"),
    ):
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        save_file(tensors, place / name, metadata={"format": "pt"})
    return source, checkpoint


class _Weights:
    """Random tensors by their Hugging Face names, large enough for peaked distributions."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._random = np.random.default_rng(11)
        self._tensors = self._all()

    def hf(self) -> dict[str, Array]:
        return dict(self._tensors)

    def trtllm(self) -> dict[str, Array]:
        """Renames, and fuses query, key and value."""
        tensors: dict[str, Array] = {}
        for name, values in self._tensors.items():
            if not any(f"self_attn.{part}_proj" in name for part in "qkv"):
                tensors[_renamed(name)] = values
        for layer in range(LAYERS):
            for role in ("weight", *(("bias",) if self._family.qkv_bias else ())):
                parts = [
                    self._tensors[f"model.layers.{layer}.self_attn.{part}_proj.{role}"]
                    for part in "qkv"
                ]
                tensors[f"transformer.layers.{layer}.attention.qkv.{role}"] = np.concatenate(parts)
        return tensors

    def _all(self) -> dict[str, Array]:
        query, key = HEADS * HEAD_SIZE, KEY_HEADS * HEAD_SIZE
        tensors = {"model.embed_tokens.weight": self._normal(VOCABULARY, HIDDEN)}
        for layer in range(LAYERS):
            prefix = f"model.layers.{layer}."
            for part, rows in (("q", query), ("k", key), ("v", key)):
                tensors[f"{prefix}self_attn.{part}_proj.weight"] = self._matrix(rows, HIDDEN)
                if self._family.qkv_bias:
                    tensors[f"{prefix}self_attn.{part}_proj.bias"] = self._normal(rows)
                if self._family.qk_norm and part != "v":
                    tensors[f"{prefix}self_attn.{part}_norm.weight"] = self._norm(HEAD_SIZE)
            tensors[f"{prefix}self_attn.o_proj.weight"] = self._matrix(HIDDEN, query)
            tensors[f"{prefix}mlp.gate_proj.weight"] = self._matrix(INNER, HIDDEN)
            tensors[f"{prefix}mlp.up_proj.weight"] = self._matrix(INNER, HIDDEN)
            tensors[f"{prefix}mlp.down_proj.weight"] = self._matrix(HIDDEN, INNER)
            tensors[f"{prefix}input_layernorm.weight"] = self._norm(HIDDEN)
            tensors[f"{prefix}post_attention_layernorm.weight"] = self._norm(HIDDEN)
        tensors["model.norm.weight"] = self._norm(HIDDEN)
        if not self._family.tied:
            tensors["lm_head.weight"] = self._normal(VOCABULARY, HIDDEN)
        return tensors

    def _normal(self, *shape: int) -> Array:
        return self._random.standard_normal(shape).astype(np.float32) * np.float32(0.4)

    def _matrix(self, rows: int, columns: int) -> Array:
        return self._normal(rows, columns) * np.float32(4 / np.sqrt(columns))

    def _norm(self, size: int) -> Array:
        return 1 + self._normal(size) * np.float32(0.5)


_NAMES = (
    ("model.embed_tokens", "transformer.vocab_embedding"),
    ("model.layers", "transformer.layers"),
    ("model.norm", "transformer.ln_f"),
    ("self_attn.o_proj", "attention.dense"),
    ("self_attn.q_norm", "attention.q_layernorm"),
    ("self_attn.k_norm", "attention.k_layernorm"),
    ("mlp.gate_proj", "mlp.fc"),
    ("mlp.up_proj", "mlp.gate"),
    ("mlp.down_proj", "mlp.proj"),
    ("post_attention_layernorm", "post_layernorm"),
)


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


def _hf_config(family: Family) -> dict[str, Any]:
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": BASE},
        "tie_word_embeddings": family.tied,
        "vocab_size": VOCABULARY,
        "dtype": "float32",
        **family.hf,
    }


def _trtllm_config(family: Family) -> dict[str, Any]:
    return {
        "architecture": family.architecture,
        "dtype": "float32",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_size": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "norm_epsilon": EPSILON,
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": BASE,
        "share_embedding_table": family.tied,
        "vocab_size": VOCABULARY,
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        **family.trtllm,
    }
