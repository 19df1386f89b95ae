"""Small models of random weights: they show structure, never quality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.factories.tiny_llama import VOCABULARY, Weights, write_model

LAYERS = 2


@dataclass(frozen=True)
class Shape:
    """What of a random model differs from another's."""

    architecture: str
    model_type: str
    hidden: int
    inner: int
    heads: int
    key_heads: int
    qkv_bias: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json, in the form of transformers 5."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "tie_word_embeddings": False,
            "sliding_window": None,
            "vocab_size": VOCABULARY,
            "dtype": "bfloat16",
        }

    def write(self, directory: Path, seed: int = 0) -> Path:
        """Writes it as a Hugging Face directory."""
        return write_model(directory, self.config, self._weights(np.random.default_rng(seed)))

    def _weights(self, generator: np.random.Generator) -> Weights:
        def matrix(rows: int, columns: int) -> Any:  # noqa: ANN401 - bfloat16 has no numpy type
            values = generator.standard_normal((rows, columns)) / np.sqrt(columns)
            return values.astype(ml_dtypes.bfloat16)

        key = self.hidden // self.heads * self.key_heads
        rows = {"q": self.hidden, "k": key, "v": key}
        tensors: Weights = {
            "model.embed_tokens.weight": matrix(VOCABULARY, self.hidden),
            "model.norm.weight": np.ones(self.hidden, ml_dtypes.bfloat16),
            "lm_head.weight": matrix(VOCABULARY, self.hidden),
        }
        for layer in range(LAYERS):
            prefix = f"model.layers.{layer}."
            for part, size in rows.items():
                tensors[f"{prefix}self_attn.{part}_proj.weight"] = matrix(size, self.hidden)
                if self.qkv_bias:
                    tensors[f"{prefix}self_attn.{part}_proj.bias"] = matrix(1, size)[0]
            tensors[f"{prefix}self_attn.o_proj.weight"] = matrix(self.hidden, self.hidden)
            tensors[f"{prefix}mlp.gate_proj.weight"] = matrix(self.inner, self.hidden)
            tensors[f"{prefix}mlp.up_proj.weight"] = matrix(self.inner, self.hidden)
            tensors[f"{prefix}mlp.down_proj.weight"] = matrix(self.hidden, self.inner)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}{norm}.weight"] = np.ones(self.hidden, ml_dtypes.bfloat16)
        return tensors


MISTRAL = Shape("MistralForCausalLM", "mistral", hidden=256, inner=512, heads=4, key_heads=2)
QWEN2 = Shape(
    "Qwen2ForCausalLM", "qwen2", hidden=256, inner=512, heads=8, key_heads=2, qkv_bias=True
)
